package volume_test

import (
	"context"
	"time"

	"ashlar.dev/pkg/clock"
)

func timeout(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// pause lets others do something: between two looks at a condition, or between two
// blows of a test whose subject is what happens at any moment.
func pause(d time.Duration) { _ = clock.System.Sleep(context.Background(), d) }
