package display

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Add adds the flags to a command's. What has -c already keeps it.
func (d *Flags) Add(f *pflag.FlagSet) {
	f.StringVarP(&d.Progress, "progress", "p", "auto", "progress `MODE`: auto, bar, plain, json or none")
	f.Lookup("progress").NoOptDefVal = "bar"
	f.BoolVarP(&d.Quiet, "quiet", "q", false, "print warnings and errors only")
	f.CountVarP(&d.debug, "debug", "D", "log requests and decisions (twice: headers, too)")
	short := "c"
	if f.ShorthandLookup(short) != nil { // warm -c is its file
		short = ""
	}
	f.BoolVarP(&d.color, "color", short, false, "always use colour")
	f.BoolVarP(&d.noColor, "no-color", "C", false, "never use colour")
}

// progressModes are the values of --progress.
var progressModes = [...]string{"auto", "bar", "plain", "json", "none"}

// JoinProgress lets -p stand alone and take its value as a word of its own,
// too: -p json, beside -pjson and --progress=json. A word that is no mode is
// left to be an image.
func JoinProgress(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			return append(out, args[i:]...)
		}
		lone := args[i] == "-p" || args[i] == "--progress"
		if lone && i+1 < len(args) && slices.Contains(progressModes[:], args[i+1]) {
			out = append(out, "--progress="+args[i+1])
			i++
			continue
		}
		if mode, ok := strings.CutPrefix(args[i], "-p"); ok && slices.Contains(progressModes[:], mode) {
			out = append(out, "--progress="+mode)
			continue
		}
		out = append(out, args[i])
	}
	return out
}
