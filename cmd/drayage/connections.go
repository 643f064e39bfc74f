package main

import (
	"errors"
	"strconv"

	"drayage/engine"

	"github.com/spf13/pflag"
)

// connectionLimits are the flags --jobs and --per-host.
type connectionLimits struct {
	jobs, perHost connectionLimit
}

// add adds the flags; which says what hosts they are about.
func (c *connectionLimits) add(f *pflag.FlagSet, which string) {
	f.VarP(&c.jobs, "jobs", "j", "maximum connections to all "+which+"hosts: `N` (default: automatic, up to 128)")
	f.Var(&c.perHost, "per-host", "maximum connections per "+which+"host: `N` (default: automatic, up to 64)")
}

// limits are the flags' values, 0 for what is found by measurement.
func (c *connectionLimits) limits() engine.Limits {
	return engine.Limits{Jobs: int(c.jobs), PerHost: int(c.perHost)}
}

// connectionLimit is a number of connections, or 0 if none is given. It implements pflag.Value.
type connectionLimit int

func (c *connectionLimit) String() string {
	if *c == 0 {
		return ""
	}
	return strconv.Itoa(int(*c))
}

func (c *connectionLimit) Type() string { return "int" }

func (c *connectionLimit) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return errors.New("must be a whole number, at least 1")
	}
	*c = connectionLimit(n)
	return nil
}
