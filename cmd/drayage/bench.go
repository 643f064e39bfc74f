package main

import (
	"drayage/cmd/drayage/internal/benchmark"
	"drayage/cmd/drayage/internal/process"

	"github.com/spf13/cobra"
)

func benchCommand(s process.Streams) *cobra.Command {
	o := benchmark.Options{}
	cmd := &cobra.Command{
		Use:   "bench [flags] IMAGE...",
		Short: "Measure throughput and latency of registries",
		Long: `Read ranges of the images' layers with different numbers of connections, and report
throughput, latency, and the number of connections beyond which more gain under 5 %.
Only reads, discards what it reads, and stays within --bytes and --duration.

Several images, and several values of --range, --http and --from, take turns in each
round and are compared; a difference is reported when it is significant (p <= 0.05).
Prints a table, unless another format is written to standard output.`,
		Example: `  drayage bench registry.example/app:1
  drayage bench --connections 8 --rounds 10 registry.example/app:1 mirror.example/app:1
  drayage bench --http 1.1,2 --range 1MiB,whole registry.example/app:1
  drayage bench --rate 50 --range 1MiB --json today.json registry.example/app:1
  drayage bench --baseline yesterday.json --tolerance 10% registry.example/app:1
  drayage bench --replay pull.json --from registry.example,mirror.example:5000`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Given = cmd.Flags().Changed
			return benchmark.Run(cmd.Context(), s, o, args)
		},
	}
	o.Add(cmd.Flags())
	return cmd
}
