// Command ashlar is the operator's tool; everything is in pkg/cli.
package main

import (
	"context"
	"os"

	"ashlar.dev/pkg/cli"
	"ashlar.dev/pkg/lifecycle"
)

func main() {
	ctx, stop := lifecycle.SignalContext(context.Background())
	code := cli.Run(ctx, os.Args[1:], cli.RealSurroundings())
	stop()
	os.Exit(code)
}
