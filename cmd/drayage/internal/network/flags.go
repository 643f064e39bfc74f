package network

import (
	"time"

	"github.com/spf13/pflag"
)

// Add adds all flags to a command's.
func (n *Flags) Add(f *pflag.FlagSet) {
	f.StringVarP(&n.Auth, "auth", "a", "", "`CREDENTIALS`: env:VAR, file:PATH or base64 of user:password (default: stored logins)")
	f.BoolVarP(&n.noAuth, "no-auth", "A", false, "send no credentials")
	n.AddTransport(f)
	f.StringArrayVar(&n.mirrors, "mirror", nil, "mirror of a registry, `HOST=URL`, e.g. docker.io=https://mirror.example (repeatable)")
	f.StringVar(&n.hostsDir, "hosts-dir", "", "directory `DIR` of hosts.toml files, as in containerd")
	f.Var(&n.Limit, "limit-rate", "maximum total `RATE` in bytes per second, e.g. 20M or 1.5MiB")
	f.DurationVar(&n.Stall, "stall", 15*time.Second, "replace a connection that receives nothing for `DUR`")
	f.DurationVar(&n.Connect, "connect-timeout", 15*time.Second, "timeout `DUR` for connecting, and again for the TLS handshake")
	f.DurationVar(&n.FirstByte, "answer-timeout", 2*time.Minute, "timeout `DUR` for the start of a response; less for hosts known to be faster")
}

// AddTransport adds the flags for how a registry is spoken to.
func (n *Flags) AddTransport(f *pflag.FlagSet) {
	f.BoolVarP(&n.insecure, "insecure", "I", false, "use plain HTTP for registries without TLS (never for Docker Hub)")
	f.BoolVar(&n.skipVerify, "tls-skip-verify", false, "accept any TLS certificate")
	f.StringArrayVar(&n.allowed, "allow-address", nil, "let public registries redirect to private addresses in `CIDR`, e.g. 10.1.0.0/16 (repeatable)")
	f.StringVar(&n.caCert, "ca-cert", "", "`FILE` of additional certificate authorities to trust")
	f.StringVar(&n.cert, "cert", "", "TLS client certificate `FILE`")
	f.StringVar(&n.key, "key", "", "TLS client key `FILE`")
}
