package siege

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// attacks are the ways. Most are paced: what is tried is what a request costs the mirror, and not
// who has more processors.
func attacks() []attack {
	const often, now, seldom = 20 * time.Millisecond, 100 * time.Millisecond, time.Second
	way := func(name string, many int, run func(context.Context, *attacker)) attack {
		return attack{name: name, many: many, run: run}
	}
	return append(secureAttacks(), []attack{
		way("headers that announce a body", 4, holdPlaces("GET /healthz HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1000\r\n\r\n")),
		way("headers that announce chunks", 2, holdPlaces("GET /v2/ HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n")),
		way("headers that never end", 2, holdPlaces("GET /v2/ HTTP/1.1\r\nHost: HOST\r\nX: ")),
		way("connections without a word", 2, holdPlaces("")),
		way("answers that nobody reads", 2, func(ctx context.Context, a *attacker) {
			each(ctx, now, func(int) { a.unread(ctx) })
		}),
		way("wrong passwords", 4, func(ctx context.Context, a *attacker) {
			each(ctx, often, func(n int) { a.get(ctx, "/v2/", fmt.Sprint("wrong", n), -1) })
		}),
		way("health checks", 2, func(ctx context.Context, a *attacker) {
			each(ctx, often, func(int) { a.get(ctx, "/readyz", "", -1) })
		}),
		way("lists", 2, func(ctx context.Context, a *attacker) {
			each(ctx, often, func(n int) {
				a.get(ctx, []string{"/v2/_catalog?n=1", "/", "/metrics", a.of("tags", "tags/list"), a.of("pages", "tags/list")}[n%5], a.target.Password, -1)
			})
		}),
		way("ranges", 1, func(ctx context.Context, a *attacker) {
			list := "bytes=" + strings.TrimSuffix(strings.Repeat("0-,", 10_000), ",")
			each(ctx, now, func(int) {
				a.get(ctx, a.of("wide", "blobs/"+layer().Digest.String()), a.target.Password, -1, "Range", list)
			})
		}),
		way("an index of one image a thousand times", 1, a(now, "wide", "manifests/latest")),
		way("a manifest of that image", 1, a(now, "wide", "manifests/"+wideManifest().Digest.String())),
		way("wrong sizes", 1, a(now, "sizes", "manifests/latest")),
		way("manifests of nothing but values", 4, func(ctx context.Context, a *attacker) {
			each(ctx, now, func(n int) {
				a.get(ctx, a.of(fmt.Sprintf("values/%d", n), "manifests/latest"), a.target.Password, -1)
			})
		}),
		way("indexes in indexes", 1, a(now, "nested", "manifests/latest")),
		way("manifests by drops", 2, func(ctx context.Context, a *attacker) {
			each(ctx, often, func(n int) { a.leave(ctx, a.of(fmt.Sprintf("drops/%d", n), "manifests/latest")) })
		}),
		way("blobs of a terabyte by drops", 2, func(ctx context.Context, a *attacker) {
			each(ctx, now, func(n int) { a.leave(ctx, a.of("huge", "blobs/"+madeUp(n).String())) })
		}),
		way("blobs that fill the budget", 2, func(ctx context.Context, a *attacker) {
			each(ctx, seldom/4, func(n int) { a.leave(ctx, a.of("large", "blobs/"+madeUp(n).String())) })
		}),
		way("blobs that honest clients ask for, from a slow holder", 1, func(ctx context.Context, a *attacker) {
			each(ctx, seldom/5, func(n int) { // those are at one a second
				if fresh := a.target.Fresh; len(fresh) > 0 {
					a.leave(ctx, a.of("slow", "blobs/"+fresh[(n/5+n%2)%len(fresh)].String()))
				}
			})
		}),
		way("redirects upstream", 2, func(ctx context.Context, a *attacker) {
			each(ctx, now, func(n int) {
				a.get(ctx, a.of(fmt.Sprintf("redirects/%d", n), []string{"manifests/latest", "blobs/" + madeUp(n).String()}[n%2]), a.target.Password, -1)
			})
		}),
		way("streams of events", 2, holdPlaces("GET /events HTTP/1.1\r\nHost: HOST\r\nAuthorization: Basic LOGIN\r\n\r\n")),
		way("pages of events that are left at once", 2, func(ctx context.Context, a *attacker) {
			each(ctx, often, func(int) { a.leave(ctx, "/events") })
		}),
		way("HEAD with a body", 2, holdPlaces("HEAD /v2/ HTTP/1.1\r\nHost: HOST\r\nAuthorization: Basic LOGIN\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 1<<10))),
		way("edits of the password file", 1, func(ctx context.Context, a *attacker) {
			each(ctx, seldom/2, func(n int) {
				if a.target.EditPasswords != nil {
					a.target.EditPasswords(n)
				}
			})
		}),
		way("other hosts' names", 1, func(ctx context.Context, a *attacker) {
			each(ctx, often, func(int) { a.get(ctx, "/v2/_catalog", a.target.Password, -1, "Host", "evil.example") })
		}),
		way("paths", 1, func(ctx context.Context, a *attacker) {
			each(ctx, often, func(n int) {
				a.get(ctx, []string{"/v2/" + strings.Repeat("a/", 4000) + "tags/list", "/v2/x/blobs/sha256:" + strings.Repeat("%2e", 5000), "/warm/" + strings.Repeat("x", 20_000)}[n%3], a.target.Password, -1)
			})
		}),
	}...)
}

// secureAttacks are those over HTTPS.
func secureAttacks() []attack {
	const soon, while = 50 * time.Millisecond, 2 * time.Second
	return []attack{
		{name: "streams of HTTP/2 that are reset at once", many: 1, run: streams("/page.js", 0, soon), secure: true},
		{name: "streams of HTTP/2 that nobody reads", many: 2, run: streams("/page.js", 1, while), secure: true},
		{name: "streams of HTTP/2 with events", many: 1, run: streams("/events", 1, while), secure: true},
		{name: "bodies of HTTP/2 that never end", many: 2, run: uploads, secure: true},
	}
}

// a is an attack that asks for something of the hostile registry, and reads all of the answer.
func a(pause time.Duration, repo, rest string) func(context.Context, *attacker) {
	return func(ctx context.Context, a *attacker) {
		each(ctx, pause, func(int) { a.get(ctx, a.of(repo, rest), a.target.Password, -1) })
	}
}

// leave asks for a path, and leaves soon, whether an answer came or not.
func (a *attacker) leave(ctx context.Context, path string) {
	const soon = 200 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	a.get(ctx, path, a.target.Password, 1<<10)
}

// holdPlaces opens as many connections as it is let, says a beginning over each, in which HOST and
// LOGIN are the mirror and the attacker's, and holds them until they are closed; then it opens others.
func holdPlaces(beginning string) func(context.Context, *attacker) {
	const connections, pause = 300, 5 * time.Millisecond
	return func(ctx context.Context, a *attacker) {
		login := base64.StdEncoding.EncodeToString([]byte(a.target.User + ":" + a.target.Password))
		text := strings.NewReplacer("HOST", a.target.Host, "LOGIN", login).Replace(beginning)
		places := make(chan net.Conn, connections)
		defer func() {
			close(places)
			for c := range places {
				c.Close()
			}
		}()
		each(ctx, pause, func(int) {
			if len(places) == connections {
				old := <-places // the oldest may be closed by now
				_ = old.SetReadDeadline(time.Now().Add(time.Millisecond))
				if _, err := io.ReadFull(old, make([]byte, 1)); isTimeout(err) {
					places <- old
					return
				}
				old.Close()
			}
			c, err := a.dial(ctx, "tcp", a.target.Host)
			if err != nil {
				return
			}
			if beginning != "" {
				_, _ = io.WriteString(c, text) // closed, if not
			}
			places <- c
		})
	}
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}

// unread asks for much over one connection, and reads nothing of it for a while.
func (a *attacker) unread(ctx context.Context) {
	c, err := a.dial(ctx, "tcp", a.target.Host)
	if err != nil {
		return
	}
	defer c.Close()
	const requests, while = 1000, time.Second
	text := strings.Repeat("GET /page.js HTTP/1.1\r\nHost: "+a.target.Host+"\r\n\r\n", requests)
	_ = c.SetWriteDeadline(time.Now().Add(while))
	_, _ = io.WriteString(c, text) // as much as fits
	wait := time.NewTimer(while)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
}
