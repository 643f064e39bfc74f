// Package proxies understands the proxies that the environment names (HTTP_PROXY, HTTPS_PROXY,
// NO_PROXY): whether they are valid, what they answer themselves, and which passwords they have.
package proxies

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"drayage/engine/internal/retry"
)

// Error is a proxy that refuses to connect.
type Error struct {
	Proxy, target string
	status        int
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("proxy %s refused to connect to %s: %d %s", e.Proxy, e.target, e.status, http.StatusText(e.status))
}

// IsLasting reports whether the proxy is going to refuse again.
func (e *Error) IsLasting() bool { return !retry.Status(e.status) }

// Is makes a lasting refusal a retry.ErrLasting.
func (e *Error) Is(target error) bool { return target == retry.ErrLasting && e.IsLasting() }

// Hint is what a user may do about it.
func (e *Error) Hint() string {
	if e.status == http.StatusProxyAuthRequired {
		return "proxy authentication required; set user name and password in HTTPS_PROXY"
	}
	return "the proxy does not allow that host or port; bypass it with NO_PROXY"
}

// CheckConnect makes an error of a proxy's answer to CONNECT that is not a connection.
func CheckConnect(_ context.Context, proxy *url.URL, req *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &Error{Proxy: proxy.Host, target: req.Host, status: resp.StatusCode}
}

// Secrets are the passwords of the proxies that the environment names, in the forms that
// a proxy or an error may have them in.
func Secrets() []string {
	var out []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		for _, name := range []string{name, strings.ToLower(name)} {
			value := os.Getenv(name)
			u, err := parse(value)
			if err != nil || u.User == nil {
				continue
			}
			if password, ok := u.User.Password(); ok {
				out = append(out, password, u.User.Username()+":"+password)
			}
			if user, _, ok := strings.Cut(value, "@"); ok { // as it was written
				if _, escaped, ok := strings.Cut(user[strings.Index(user, "//")+1:], ":"); ok {
					out = append(out, escaped)
				}
			}
		}
	}
	return out
}

// Answers reports whether an answer is a proxy's own, and not of who was asked through it.
func Answers(resp *http.Response) bool {
	for name := range resp.Header {
		if name == "X-Squid-Error" || strings.HasPrefix(name, "Proxy-") && name != "Proxy-Connection" {
			return true
		}
	}
	return false
}

// Through is the proxy that a request by plain HTTP went through, "" for none. What goes
// by HTTPS has a tunnel, in which a proxy says nothing.
func Through(req *http.Request) string {
	if req.URL.Scheme != "http" {
		return ""
	}
	proxy, err := http.ProxyFromEnvironment(req)
	if err != nil || proxy == nil {
		return ""
	}
	return proxy.Host
}

// Check looks at the proxies that the environment names. net/http goes past one that it
// can't read, or reads something else in it, and says so with the password in the message.
func Check() error {
	for _, names := range [][2]string{{"HTTP_PROXY", "http_proxy"}, {"HTTPS_PROXY", "https_proxy"}} {
		name := names[0]
		if os.Getenv(name) == "" {
			name = names[1]
		}
		if value := os.Getenv(name); value != "" && !isValid(value) {
			return fmt.Errorf("%s is not a valid proxy URL; example: http://user:password@proxy.example:3128 (escape %%, #, / and @ in the password as %%25, %%23, %%2F and %%40)", name)
		}
	}
	return nil
}

var errProxyURL = errors.New("not a proxy's URL")

func isValid(value string) bool {
	_, err := parse(value)
	return err == nil
}

// parse reads a proxy as net/http does: a URL, or HOST:PORT.
func parse(value string) (*url.URL, error) {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return nil, errProxyURL
	}
	if p := u.Port(); p != "" {
		if _, err := strconv.ParseUint(p, 10, 16); err != nil {
			return nil, errProxyURL
		}
	}
	return u, nil
}
