package main

import (
	_ "embed"

	"drayage/cmd/drayage/internal/process"

	"github.com/spf13/cobra"
)

// notices has the licences of what is linked into the program, which go wherever it
// goes. make notices writes it.
//
//go:embed notices.txt
var notices string

// addNotices gives a command a flag with which it prints the notices in place of what it prints
// without.
func addNotices(cmd *cobra.Command, s process.Streams) {
	var wanted bool
	cmd.Flags().BoolVar(&wanted, "notices", false, "print the licences of the modules that drayage is built from")
	without := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !wanted {
			return without(cmd, args)
		}
		_, err := s.Out.Write([]byte(notices))
		return err
	}
}
