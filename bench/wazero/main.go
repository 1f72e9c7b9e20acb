// wazero's side of bench/cold: a fresh instance of a module, one call of add(2.5, 3.7), and the
// instance's end, many times in one process, compiled once.
//
//	wazero-cold MODULE.wasm [ROUNDS]
//
// Prints JSON: P50 and P99 of one round in µs.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

const warmup = 100

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return v
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: wazero-cold MODULE.wasm [ROUNDS]")
		os.Exit(2)
	}
	rounds := 1000
	if len(os.Args) > 2 {
		rounds = must(strconv.Atoi(os.Args[2]))
	}
	ctx := context.Background()
	runtime := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler())
	wasi_snapshot_preview1.MustInstantiate(ctx, runtime)
	module := must(runtime.CompileModule(ctx, must(os.ReadFile(os.Args[1]))))
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize")
	took := make([]time.Duration, 0, rounds)
	for i := range warmup + rounds {
		start := time.Now()
		instance := must(runtime.InstantiateModule(ctx, module, config))
		v := must(instance.ExportedFunction("add").Call(ctx, api.EncodeF64(2.5), api.EncodeF64(3.7)))
		must(0, instance.Close(ctx))
		if sum := api.DecodeF64(v[0]); sum != 6.2 {
			fmt.Fprintln(os.Stderr, "wrong sum:", sum)
			os.Exit(1)
		}
		if i >= warmup {
			took = append(took, time.Since(start))
		}
	}
	slices.Sort(took)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	fmt.Printf("{\"rounds\": %d, \"p50_us\": %.3f, \"p99_us\": %.3f}\n", rounds,
		us(took[rounds/2]), us(took[rounds-1-rounds/100]))
}
