package network

import (
	"time"

	"github.com/spf13/pflag"
)

// Add adds all flags to a command's.
func (n *Flags) Add(f *pflag.FlagSet) {
	f.StringVarP(&n.Auth, "auth", "a", "", "`CREDENTIALS`: env:VAR, file:PATH, or base64 of user:password (default: what docker login or podman login stored)")
	f.BoolVarP(&n.noAuth, "no-auth", "A", false, "send no credentials")
	n.AddTransport(f)
	f.StringArrayVar(&n.mirrors, "mirror", nil, "ask a mirror before a registry, as `HOST=URL`: docker.io=https://mirror.example; may be repeated")
	f.StringVar(&n.hostsDir, "hosts-dir", "", "mirrors by the hosts.toml files in `DIR`, as containerd reads them")
	f.Var(&n.Limit, "limit-rate", "bytes a second over all connections, at most `RATE`: 20M, 1.5MiB")
	f.DurationVar(&n.Stall, "stall", 15*time.Second, "drop a connection that is silent for `DUR`, and fetch its rest anew")
	f.DurationVar(&n.Connect, "connect-timeout", 15*time.Second, "make a connection within `DUR`, and as long again for TLS")
	f.DurationVar(&n.FirstByte, "answer-timeout", 2*time.Minute, "wait for an answer to begin at most `DUR`; less where a host is known to be faster")
}

// AddTransport adds the flags for how a registry is spoken to.
func (n *Flags) AddTransport(f *pflag.FlagSet) {
	f.BoolVarP(&n.insecure, "insecure", "I", false, "use plain HTTP for registries without TLS (never for Docker Hub)")
	f.BoolVar(&n.skipVerify, "tls-skip-verify", false, "accept any TLS certificate")
	f.StringArrayVar(&n.allowed, "allow-address", nil, "registries elsewhere may lead to `CIDR` of a private network or this machine, by redirects, token servers and URLs of layers: 10.1.0.0/16; may be repeated")
	f.StringVar(&n.caCert, "ca-cert", "", "`FILE` with certificate authorities to trust besides the system's")
	f.StringVar(&n.cert, "cert", "", "`FILE` with the TLS client certificate")
	f.StringVar(&n.key, "key", "", "`FILE` with the TLS client key")
}
