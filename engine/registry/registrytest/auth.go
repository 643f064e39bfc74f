package registrytest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
)

const tokenPath = "/auth/token"

// authority says who may read.
type authority struct {
	scheme   string // "", "Basic" or "Bearer"
	user     string // "" with Bearer: anybody gets a token
	password string
	refresh  string // a refresh token that is as good as the password
	header   func(repo string) []string
	issued   int
	revoked  int // tokens numbered up to this are no longer taken
}

// RequireBasic makes the server want a name and password with each request.
func (s *Server) RequireBasic(user, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth = authority{scheme: "Basic", user: user, password: password}
}

// RequireToken makes the server want a token of its own with each request.
// Anybody gets one who brings no credentials, unless user says who may; wrong
// credentials get none.
func (s *Server) RequireToken(user, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth = authority{scheme: "Bearer", user: user, password: password}
}

// AllowRefresh makes the token server take a refresh token too.
func (s *Server) AllowRefresh(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth.refresh = token
}

// ChallengeWith replaces the WWW-Authenticate headers of the server.
func (s *Server) ChallengeWith(f func(repo string) []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth.header = f
}

// RevokeTokens makes the tokens issued so far worthless, as time does.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth.revoked = s.auth.issued
}

// Realm is where tokens are had.
func (s *Server) Realm() string { return s.http.URL + tokenPath }

// allowed answers 401 with a challenge when a request may not read repo.
func (s *Server) allowed(w http.ResponseWriter, r *http.Request, repo string) bool {
	s.mu.Lock()
	a := s.auth
	s.mu.Unlock()
	given := r.Header.Get("Authorization")
	scope := "repository:" + repo + ":pull"
	challenge := ""
	switch a.scheme {
	case "":
		return true
	case "Basic":
		if given == "Basic "+base64.StdEncoding.EncodeToString([]byte(a.user+":"+a.password)) {
			return true
		}
		challenge = `Basic realm="registry"`
	case "Bearer":
		var number int
		if n, err := fmt.Sscanf(given, "Bearer token-%d-", &number); n == 1 && err == nil &&
			number > a.revoked && strings.HasSuffix(given, "-"+scope) {
			return true
		}
		challenge = fmt.Sprintf(`Bearer realm=%q,service="registrytest",scope=%q`, s.Realm(), scope)
	}
	challenges := []string{challenge}
	if a.header != nil {
		challenges = a.header(repo)
	}
	for _, c := range challenges {
		w.Header().Add("WWW-Authenticate", c)
	}
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// token gives out tokens, by the distribution project's token specification
// and by its OAuth2 variant.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		fail(w, http.StatusBadRequest, "UNKNOWN", err.Error())
		return
	}
	number, ok := s.issue(r)
	if !ok {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
		return
	}
	key := "token"
	if number%2 == 0 || r.Method == http.MethodPost {
		key = "access_token" // as some registries do
	}
	scope := strings.Join(r.Form["scope"], " ")
	w.Write(mustJSON(map[string]any{key: fmt.Sprintf("token-%d-%s", number, scope), "expires_in": 300}))
}

// issue gives the number of a new token to whoever may have one.
func (s *Server) issue(r *http.Request) (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &s.auth
	user, password, given := r.BasicAuth()
	byPassword := given && a.user != "" && user == a.user && password == a.password
	byNothing := !given && a.user == "" && r.Method == http.MethodGet
	byRefresh := a.refresh != "" && r.Method == http.MethodPost && r.PostForm.Get("refresh_token") == a.refresh
	if !byPassword && !byNothing && !byRefresh {
		return 0, false
	}
	a.issued++
	return a.issued, true
}
