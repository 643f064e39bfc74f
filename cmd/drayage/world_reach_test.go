package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"drayage/engine/registry/registrytest"
)

// TestWorldReach: where registries lead that are elsewhere. A proxy stands for the Internet:
// registry.test is nowhere near this machine.
func TestWorldReach(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		host    string // of what the registry redirects to, with * for the port
		noProxy string
		args    []string
		status  int
		told    []string
		passed  bool // the proxy was asked for it
	}{
		{"an address of this machine", "127.0.0.1:*", "127.0.0.1", nil, 1, []string{"127.0.0.0/8", "--allow-address"}, false},
		{"a name that resolves to one", "localhost:*", "localhost", nil, 1, []string{"127.0.0.0/8", "--allow-address"}, false},
		{"one in IPv6's clothes", "[::ffff:127.0.0.1]:*", "::ffff:127.0.0.1,127.0.0.1", nil, 1, []string{"--allow-address"}, false},
		{"an address, through the proxy", "127.0.0.1:*", "-", nil, 1, []string{"127.0.0.0/8", "--allow-address"}, false},
		{"a private one, through the proxy", "10.0.0.1:*", "-", nil, 1, []string{"reached through a proxy", "use --allow-address 10.0.0.0/8 to permit it"}, false},
		{"metadata, through the proxy", "169.254.169.254", "-", []string{"--allow-address", "0.0.0.0/0"}, 1, []string{"no registry may lead there"}, false},
		{"a number, through the proxy", "2130706433:*", "-", nil, 1, []string{"--allow-address"}, false},
		{"a short form, through the proxy", "127.1:*", "-", nil, 1, []string{"--allow-address"}, false},
		{"no address, through the proxy", "1.2.3.4.5:*", "-", nil, 1, []string{"neither a name nor an address"}, false},
		{"allowed", "127.0.0.1:*", "127.0.0.1", []string{"--allow-address", "127.0.0.0/8"}, 0, nil, false},
		{"allowed, as one of several", "localhost:*", "localhost", []string{"--allow-address", "10.0.0.0/8", "--allow-address", "127.0.0.1"}, 0, nil, false},
		{"another one allowed", "127.0.0.1:*", "127.0.0.1", []string{"--allow-address", "10.0.0.0/8"}, 1, []string{"--allow-address 127.0.0.0/8"}, false},
		{"a name elsewhere", "storage.test", "-", nil, 0, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			location, storage := w.reg.NewStorage()
			defer storage.Close()
			at, err := url.Parse(storage.URL)
			if err != nil {
				t.Fatal(err)
			}
			target := strings.Replace(location, at.Host, strings.Replace(c.host, "*", at.Port(), 1), 1)
			w.reg.Break("/blobs/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
				to := strings.Replace(target, "%s", r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:], 1)
				http.Redirect(rw, r, to, http.StatusFound)
			}))
			var asked log
			proxy := httptest.NewServer(internet(&asked, map[string]string{"registry.test": w.reg.Host(), "storage.test": at.Host}))
			defer proxy.Close()
			w.unset("NO_PROXY")
			w.set("HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "NO_PROXY="+c.noProxy)
			image := "registry.test" + strings.TrimPrefix(w.image, w.reg.Host())
			o := w.pull(append([]string{"-I", "--give-up-after", "5s", image}, c.args...)...)
			w.want(o, c.status, c.told...)
			if passed := asked.count("storage.test")+asked.count(":"+at.Port())+asked.count("169.254") > 0; passed != c.passed {
				t.Errorf("the proxy was asked for %v", asked.all())
			}
		})
	}
	t.Run("flags", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		for _, text := range []string{"169.254.0.0/16", "fe80::/10", "10.0.0.0/99", "x", ""} {
			w.want(w.pull("--allow-address", text, w.image), 2, "--allow-address")
		}
		w.want(w.pull("--allow-address", "10.1.0.0/16", "--foreign-layers", w.image), 0)
	})
	t.Run("ports that are none", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		for _, port := range []string{"0", "65536", "99999999999999999999"} {
			w.want(w.pull("127.0.0.1:"+port+"/team/app:1"), 2, "there is no port")
			w.want(w.run("inspect", "registry.test:"+port+"/team/app"), 2, "there is no port")
			w.want(w.pull("--mirror", "docker.io=http://127.0.0.1:"+port, w.image), 2)
			w.want(w.run("serve", "--pull-through", "registry.test:"+port), 2)
			w.want(w.runIn("x", "login", "-u", "ann", "--password-stdin", "registry.test:"+port), 2)
			w.write("hosts/_default/hosts.toml", "server = \"https://registry.test:"+port+"\"\n")
			w.want(w.pull("--hosts-dir", w.home+"/hosts", w.image), 2, "hosts.toml:1")
		}
	})
}

// internet is a proxy that knows some names, passes on what is plain, and makes no tunnels.
func internet(asked *log, names map[string]string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			rw.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		asked.add("%s", r.Host)
		to, ok := names[r.Host]
		if !ok {
			http.Error(rw, "the inside answer", http.StatusBadGateway)
			return
		}
		(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", to
		}}).ServeHTTP(rw, r)
	})
}
