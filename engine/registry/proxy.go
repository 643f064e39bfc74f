package registry

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

	"drayage/engine/retry"
)

// proxyError is a proxy that refuses to connect.
type proxyError struct {
	proxy, target string
	status        int
}

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy %s refuses to connect to %s: %d %s", e.proxy, e.target, e.status, http.StatusText(e.status))
}

// lasting reports whether the proxy is going to refuse again.
func (e *proxyError) lasting() bool { return !retry.Status(e.status) }

// Is makes a lasting refusal a retry.ErrLasting.
func (e *proxyError) Is(target error) bool { return target == retry.ErrLasting && e.lasting() }

func (e *proxyError) hint() string {
	if e.status == http.StatusProxyAuthRequired {
		return "it wants a user name and password, in HTTPS_PROXY"
	}
	return "it does not allow that host or port; NO_PROXY goes past it"
}

// proxyAnswer makes an error of a proxy's answer to CONNECT that is not a connection.
func proxyAnswer(_ context.Context, proxy *url.URL, req *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &proxyError{proxy: proxy.Host, target: req.Host, status: resp.StatusCode}
}

// CheckProxies looks at the proxies that the environment names. net/http goes past one that it
// can't read, or reads something else in it, and says so with the password in the message.
func CheckProxies() error {
	for _, names := range [][2]string{{"HTTP_PROXY", "http_proxy"}, {"HTTPS_PROXY", "https_proxy"}} {
		name := names[0]
		if os.Getenv(name) == "" {
			name = names[1]
		}
		if value := os.Getenv(name); value != "" && !isProxy(value) {
			return fmt.Errorf("%s is not a proxy's URL, such as http://user:password@proxy.example:3128 (characters like %%, #, / and @ in the password must be escaped: %%25, %%23, %%2F, %%40)", name)
		}
	}
	return nil
}

var errProxyURL = errors.New("not a proxy's URL")

func isProxy(value string) bool {
	_, err := parseProxy(value)
	return err == nil
}

// parseProxy reads a proxy as net/http does: a URL, or HOST:PORT.
func parseProxy(value string) (*url.URL, error) {
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
