// Package bearer speaks to token servers: what to ask them, and what their responses mean (the
// distribution project's token specification, "Token Authentication Specification", and its OAuth2
// variant for identity tokens). It sends nothing itself.
package bearer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"drayage/engine/credential"
	"drayage/engine/internal/limits"
)

// RenewAfter is when a token is replaced that lives so long: at 80 % of its life, or 30 s
// before its end (G27).
func RenewAfter(life time.Duration) time.Duration {
	const share, before = 0.8, 30 * time.Second
	return max(time.Duration(share*float64(life)), life-before)
}

// RepositoryOf is the repository that a path of the API is for, as far as tokens go.
func RepositoryOf(path string) string {
	path = strings.TrimPrefix(path, "/v2/")
	for _, part := range []string{"/manifests/", "/blobs/", "/referrers/", "/tags/"} {
		if i := strings.LastIndex(path, part); i >= 0 {
			return path[:i]
		}
	}
	return path
}

// Granted is what a token says that it is good for, as scopes.
func Granted(token string) []string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var claims struct {
		Access []struct {
			Type    string   `json:"type"`
			Name    string   `json:"name"`
			Actions []string `json:"actions"`
		} `json:"access"`
	}
	if json.Unmarshal(raw, &claims) != nil || claims.Access == nil {
		return nil
	}
	out := []string{}
	for _, a := range claims.Access {
		out = append(out, a.Type+":"+a.Name+":"+strings.Join(a.Actions, ","))
	}
	return out
}

// NewRequest makes the request for a token of a realm: a GET with the scopes in its query or, for an
// identity token, a POST with a form.
func NewRequest(ctx context.Context, realm *url.URL, service string, scopes []string, cred credential.Credential) (*http.Request, error) {
	u := *realm
	q := u.Query()
	if service != "" {
		q.Set("service", service)
	}
	method, body := http.MethodGet, ""
	if cred.Identity != "" {
		method = http.MethodPost
		body = url.Values{
			"grant_type": {"refresh_token"}, "client_id": {"drayage"}, "service": {service},
			"scope": {strings.Join(scopes, " ")}, "refresh_token": {cred.Identity},
		}.Encode()
	} else {
		for _, s := range scopes {
			q.Add("scope", s)
		}
		if cred.User != "" {
			q.Set("account", cred.User)
		}
		u.RawQuery = q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body == "" {
		req.Body, req.GetBody, req.ContentLength = nil, nil, 0
	} else {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("Accept-Encoding", "identity")
	if cred.Password != "" {
		req.SetBasicAuth(cred.User, cred.Password)
	}
	return req, nil
}

// The errors of Parse.
var (
	errMalformed = errors.New("the token server's response is not valid")
	errNoToken   = errors.New("the token server's response contains no token")
)

// Parse reads the token in a token server's response, and how long it is good for: 0 when the
// server doesn't say.
func Parse(raw []byte) (token string, life time.Duration, err error) {
	var answer struct {
		Token       string          `json:"token"`
		AccessToken string          `json:"access_token"` // (G26)
		ExpiresIn   json.RawMessage `json:"expires_in"`
	}
	if len(raw) > limits.TokenBytes || json.Unmarshal(raw, &answer) != nil {
		return "", 0, errMalformed
	}
	token = cmp.Or(answer.Token, answer.AccessToken)
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", 0, errNoToken
	}
	const longest = 1e9
	seconds, err := strconv.ParseFloat(string(bytes.Trim(answer.ExpiresIn, `"`)), 64)
	if err != nil || !(seconds > 0) {
		seconds = 0
	}
	return token, time.Duration(min(seconds, longest) * float64(time.Second)), nil
}
