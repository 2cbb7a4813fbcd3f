package lifecycle

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
)

// SignalContext ends at the first SIGINT or SIGTERM. A second one ends the process
// at once with status 130: the operator has lost patience, and everything
// acknowledged is durable anyway. stop gives the signals back and ends the context.
func SignalContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
			cancel()
		case <-done:
			return
		}
		select {
		case <-signals:
			os.Exit(130)
		case <-done:
		}
	}()
	return ctx, sync.OnceFunc(func() {
		cancel()
		signal.Stop(signals)
		close(done)
	})
}

// NotifyReady tells systemd, if it started us with Type=notify, that we serve.
// Without systemd it does nothing; that is not an error.
func NotifyReady() error { return notify(daemon.SdNotifyReady) }

// NotifyStopping tells systemd that a clean shutdown has begun.
func NotifyStopping() error { return notify(daemon.SdNotifyStopping) }

// NotifyStatus shows one line in systemctl status.
func NotifyStatus(line string) error { return notify("STATUS=" + line) }

func notify(state string) error {
	_, err := daemon.SdNotify(false, state)
	return err
}
