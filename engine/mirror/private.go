package mirror

import (
	"fmt"
	"slices"
	"strings"

	"drayage/engine/reference"
)

// Private says which users may see the images of which repositories. Those that no rule is for
// are everybody's, and so are all when it is nil. It doesn't change, and is for any number of
// goroutines.
type Private struct {
	rules map[string]map[string]*rule // by registry, then by prefix of the repository; "" is all of it
}

// rule is who may see what is under a prefix.
type rule struct {
	users map[string]bool
	all   bool // every user that there is
}

// ParsePrivate reads rules of the form REGISTRY[/PREFIX]=USER[,USER…], where * is every user.
// A prefix is of whole parts: team is team and team/app. Of several that a repository has, the
// longest counts; users of several rules for the same are added up.
func ParsePrivate(rules []string) (*Private, error) {
	p := &Private{rules: make(map[string]map[string]*rule)}
	for _, text := range rules {
		place, users, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("%q: invalid rule: must be REGISTRY[/PREFIX]=USER[,USER...], e.g. ghcr.io/team=ann,bob", text)
		}
		registry, prefix, err := parsePlace(strings.TrimSpace(place))
		if err != nil {
			return nil, err
		}
		if p.rules[registry] == nil {
			p.rules[registry] = make(map[string]*rule)
		}
		r := p.rules[registry][prefix]
		if r == nil {
			r = &rule{users: make(map[string]bool)}
			p.rules[registry][prefix] = r
		}
		for _, user := range strings.Split(users, ",") {
			switch user = strings.TrimSpace(user); {
			case user == "" || strings.Contains(user, ":"):
				return nil, fmt.Errorf("%q: invalid user name %q: must not be empty or contain a colon", text, user)
			case user == "*":
				r.all = true
			default:
				r.users[user] = true
			}
		}
	}
	// A repository of one part is in library/ at Docker Hub, where a rule says it as people do.
	hub := p.rules[hubName]
	for prefix, r := range hub {
		if official := "library/" + prefix; prefix != "" && !strings.Contains(prefix, "/") && hub[official] == nil {
			hub[official] = r
		}
	}
	return p, nil
}

func parsePlace(place string) (registry, prefix string, err error) {
	registry, prefix, _ = strings.Cut(strings.TrimSuffix(place, "/"), "/")
	lower := strings.ToLower(registry)
	ref, err := reference.Parse(lower + "/x")
	if err != nil || ref.Registry() != lower && canonical(lower) != hubName {
		return "", "", fmt.Errorf("%q: invalid registry %q: must be HOST[:PORT], e.g. ghcr.io or registry.example:5000", place, registry)
	}
	if prefix != "" && !repositoryForm.MatchString(prefix) {
		return "", "", fmt.Errorf("%q: invalid repository prefix %q: must be one or more whole path components, e.g. team or team/app", place, prefix)
	}
	return canonical(lower), prefix, nil
}

const hubName = "docker.io"

// canonical is a registry's name such that all names of the same are one: hosts have no capitals,
// the ports of HTTPS and HTTP go without saying, and Docker Hub has several names.
func canonical(registry string) string { return oneName(registry, "443", "80") }

// usualName is canonical for where a registry is, and not for who may see it: by HTTP there may be
// another one.
func usualName(registry string) string { return oneName(registry, "443") }

// oneName is a registry's name without capitals and without the ports that go without saying.
func oneName(registry string, ports ...string) string {
	name := strings.ToLower(registry)
	if i := strings.LastIndexByte(name, ':'); i >= 0 && !strings.HasSuffix(name, "]") { // else it is part of an address
		if port := strings.TrimLeft(name[i+1:], "0"); slices.Contains(ports, port) {
			name = name[:i]
		} else {
			name = name[:i+1] + port
		}
	}
	if slices.Contains([]string{"index.docker.io", "registry-1.docker.io"}, name) {
		return hubName
	}
	return name
}

// rule is the one for a repository, nil when there is none.
func (p *Private) rule(registry, repository string) *rule {
	if p == nil {
		return nil
	}
	rules := p.rules[canonical(registry)]
	if rules == nil {
		return nil
	}
	for prefix := repository; ; {
		if r := rules[prefix]; r != nil {
			return r
		}
		if prefix == "" {
			return nil
		}
		prefix = prefix[:max(0, strings.LastIndexByte(prefix, '/'))]
	}
}

// May reports whether a user may see the images of a repository. The user "" is nobody.
func (p *Private) May(user, registry, repository string) bool {
	return p.rule(registry, repository).may(user)
}

// Everything reports whether there is nothing that a user may not see.
func (p *Private) Everything(user string) bool {
	if p == nil {
		return true
	}
	for _, rules := range p.rules {
		for _, r := range rules {
			if !r.may(user) {
				return false
			}
		}
	}
	return true
}

// MayName is May for an image by its whole name or the one that people have for it. What can't be
// told is for those alone who may see everything.
func (p *Private) MayName(user, name string) bool {
	if p == nil {
		return true
	}
	if nameless(name) {
		return true
	}
	ref, err := reference.Parse(name)
	if err != nil {
		return p.Everything(user)
	}
	return p.May(user, ref.Registry(), ref.Repository())
}

func (r *rule) may(user string) bool { return r == nil || user != "" && (r.all || r.users[user]) }
