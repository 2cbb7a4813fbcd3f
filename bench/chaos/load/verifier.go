package load

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// Verifier lets fio write a disk of its own and read back what it wrote, pass after pass. It
// judges by checksums in the blocks, so it shares nothing with the histories' judge.
type Verifier struct {
	URI string
	// Size is the disk's, PassBytes how much a pass writes, Rate its requests per second.
	Size, PassBytes int64
	Rate            int
	// Timeout bounds a pass.
	Timeout time.Duration
}

// Run makes passes until stop is closed, finishes the one under way and says how many there
// were. An error is what fio found, or that it could not go on.
func (v *Verifier) Run(stop <-chan struct{}) (passes int, err error) {
	for {
		if err := v.pass(passes + 1); err != nil {
			return passes, err
		}
		passes++
		select {
		case <-stop:
			return passes, nil
		default:
		}
	}
}

func (v *Verifier) pass(n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), v.Timeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "fio", "--name=verify", "--ioengine=nbd", "--uri="+v.URI, "--rw=randwrite", "--bs=4k-64k", "--iodepth=8",
		fmt.Sprintf("--size=%d", v.Size), fmt.Sprintf("--io_size=%d", v.PassBytes), fmt.Sprintf("--rate_iops=%d", v.Rate), fmt.Sprintf("--randseed=%d", n),
		"--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--serialize_overlap=1").CombinedOutput()
	if err != nil {
		return fmt.Errorf("fio, pass %d: %w\n%s", n, err, out)
	}
	return nil
}
