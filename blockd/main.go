// Command blockd runs the data daemon of one host; see DESIGN.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"ashlar.dev/blockd/server"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/telemetry"
)

func main() {
	lifecycle.PrivateFiles()
	spareProcs()
	if code, is := server.Command(os.Args[1:], os.Stdout, os.Stderr); is {
		os.Exit(code)
	}
	file := flag.String("config", "", "configuration `FILE` (YAML); required")
	version := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *version {
		product, goVersion := telemetry.Version()
		fmt.Println("blockd", product, goVersion)
		return
	}
	if err := run(*file); err != nil {
		fmt.Fprintln(os.Stderr, "blockd:", err)
		os.Exit(lifecycle.ExitCode(err))
	}
}

func run(file string) error {
	if file == "" {
		return fmt.Errorf("no configuration; say blockd --config FILE: %w", errs.ErrInvalid)
	}
	cfg, err := server.ReadConfig(file)
	if err != nil {
		return err
	}
	log, err := telemetry.NewLogger(os.Stderr, cfg.Log)
	if err != nil {
		return err
	}
	ctx, stop := lifecycle.SignalContext(context.Background())
	defer stop()
	return server.Run(ctx, cfg, log)
}
