// Package platform has the flag that selects a platform of a multi-platform image.
package platform

import (
	"drayage/cmd/drayage/internal/status"
	"drayage/engine/image"

	"github.com/spf13/pflag"
)

// Flag is --platform as given; "" is linux on this machine's architecture.
type Flag string

// Add adds the flag to a command's; what is what it selects.
func (p *Flag) Add(f *pflag.FlagSet, what string) {
	f.StringVar((*string)(p), "platform", "", what+": `OS/ARCH[/VARIANT]` (default "+image.DefaultPlatform().String()+")")
}

// Platform is the platform that the flag names.
func (p Flag) Platform() (image.Platform, error) {
	if p == "" {
		return image.DefaultPlatform(), nil
	}
	parsed, err := image.ParsePlatform(string(p))
	if err != nil {
		return parsed, status.Misuse(err)
	}
	return parsed, nil
}
