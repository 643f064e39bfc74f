package bench_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"time"

	"drayage/bench"
	"drayage/engine/image"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"
)

// Measure a registry with one and with four connections, write the report, and compare
// it with an earlier one.
func Example() {
	server := registrytest.New() // in place of a real registry
	defer server.Close()
	name := server.Push("team/app", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20)))

	ctx := context.Background()
	exchanges := new(bench.Exchanges)
	client := registry.New(registry.Options{Observer: exchanges})
	defer client.Close()
	ref, err := reference.Parse(name)
	if err != nil {
		log.Fatal(err)
	}
	platform, err := image.ParsePlatform("linux/amd64")
	if err != nil {
		log.Fatal(err)
	}
	target, err := bench.Resolve(ctx, client, ref, platform, bench.TargetOptions{RangeSize: 64 << 10})
	if err != nil {
		log.Fatal(err)
	}
	target.Name = "team/app:1"

	options := bench.Options{Connections: []int{1, 4}, Rounds: 2, Duration: time.Minute, Bytes: 8 << 20, Exchanges: exchanges}
	cost := options.Cost([]*bench.Target{target})
	fmt.Printf("%d steps with at most %d MiB\n", cost.Steps, cost.Bytes>>20)
	report, err := bench.Measure(ctx, options, []*bench.Target{target})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range report.Results {
		fmt.Printf("%s, connections: %d, throughput measured: %v, errors: %d\n", r.Target, r.Connections, r.Throughput.Estimate > 0, r.ErrorCount())
	}

	var today, page bytes.Buffer
	if err := report.WriteJSON(&today); err != nil {
		log.Fatal(err)
	}
	if err := report.WriteHTML(&page); err != nil {
		log.Fatal(err)
	}
	earlier, err := bench.ReadReport(&today)
	if err != nil {
		log.Fatal(err)
	}
	const allowed = 0.1
	regressions, err := report.Regressions(earlier, allowed)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("regressions: %d, exchanges: %s\n", len(regressions), report.Exchanges[0].Kind)
	// Output:
	// 4 steps with at most 8 MiB
	// team/app:1, connections: 1, throughput measured: true, errors: 0
	// team/app:1, connections: 4, throughput measured: true, errors: 0
	// regressions: 0, exchanges: manifest
}
