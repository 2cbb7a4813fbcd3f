// Command metad runs one member of the metadata group; see DESIGN.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"ashlar.dev/metad/server"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/telemetry"
)

func main() {
	lifecycle.PrivateFiles()
	file := flag.String("config", "", "configuration `FILE` (YAML); required")
	restore := flag.String("restore", "", "fill the empty data folder from a backup `FILE` and exit")
	alone := flag.Bool("recover-alone", false, "the other members are lost for good: begin anew with what this one has, and exit")
	version := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *version {
		product, goVersion := telemetry.Version()
		fmt.Println("metad", product, goVersion)
		return
	}
	if err := run(*file, *restore, *alone); err != nil {
		fmt.Fprintln(os.Stderr, "metad:", err)
		os.Exit(lifecycle.ExitCode(err))
	}
}

func run(file, restore string, alone bool) error {
	if file == "" {
		return fmt.Errorf("no configuration; say metad --config FILE: %w", errs.ErrInvalid)
	}
	var cfg server.Config
	if err := config.Load(file, &cfg); err != nil {
		return err
	}
	log, err := telemetry.NewLogger(os.Stderr, cfg.Log)
	if err != nil {
		return err
	}
	ctx, stop := lifecycle.SignalContext(context.Background())
	defer stop()
	switch {
	case restore != "":
		return server.Restore(ctx, cfg, restore, log)
	case alone:
		return server.RecoverAlone(ctx, cfg, log)
	}
	return server.Run(ctx, cfg, log)
}
