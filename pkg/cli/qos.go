package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

// limit is a flag that bounds something: a number, or none.
type limit struct{ value *uint64 }

// UnmarshalText reads a count.
func (l *limit) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 64)
	if string(text) == "none" {
		n, err = 0, nil
	}
	if err != nil {
		return fmt.Errorf("limit %.40q: want a number, such as 5000, or none: %w", text, errs.ErrInvalid)
	}
	l.value = &n
	return nil
}

// byteLimit is a limit of bytes.
type byteLimit struct{ value *uint64 }

// UnmarshalText reads a size, with "/s" behind it or not.
func (l *byteLimit) UnmarshalText(text []byte) error {
	var n config.ByteSize
	var err error
	if string(text) != "none" {
		n, err = config.ParseByteSize(strings.TrimSuffix(string(text), "/s"))
	}
	if err == nil {
		l.value = (*uint64)(&n)
	}
	return err
}

// qosFlags are the limits of a disk.
type qosFlags struct {
	IOPS           limit     `name:"iops" help:"Reads, writes, trims and write-zeroes per second, of all clients together (100 or more), or none." placeholder:"N"`
	IOPSBurst      limit     `name:"iops-burst" help:"As many of them at once after a rest. Without it a tenth of a second's worth." placeholder:"N"`
	Bandwidth      byteLimit `help:"Bytes read and written per second, such as 100MiB (1MiB or more), or none." placeholder:"SIZE"`
	BandwidthBurst byteLimit `help:"As many bytes at once after a rest. Without it a tenth of a second's worth." placeholder:"SIZE"`
}

func (f *qosFlags) change() cluster.QoSChange {
	return cluster.QoSChange{IOPS: f.IOPS.value, IOPSBurst: f.IOPSBurst.value, Bytes: f.Bandwidth.value, BytesBurst: f.BandwidthBurst.value}
}

type diskSet struct {
	Disk    string   `arg:"" help:"Name or id."`
	Hydrate rateFlag `help:"Bytes a second that are brought in from the archive at most, such as 100MiB, or default: of a disk made with --from-archive." placeholder:"SIZE"`
	protectFlag
	qosFlags
}

// Help is kong's.
func (c *diskSet) Help() string {
	return "What is not named stays. The limits hold for all clients of the disk together, wherever they are attached, and change within a second or two, " +
		"under I/O too. none takes a limit away."
}

// Run is called by kong.
func (c *diskSet) Run(ctx context.Context, s *session) error {
	x := c.change()
	limits := x != cluster.QoSChange{}
	if !limits && c.Hydrate.value == nil && c.Protect == "" {
		return &hinted{fmt.Errorf("nothing to set: %w", errs.ErrInvalid), "name a limit: --iops, --iops-burst, --bandwidth, --bandwidth-burst or --hydrate; or --protect on|off"}
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		if c.Protect != "" {
			if done, err := c.protect(ctx, s, cl, limits || c.Hydrate.value != nil); done || err != nil {
				return err
			}
		}
		if c.Hydrate.value != nil {
			if done, err := c.setHydrate(ctx, s, cl, x); done || err != nil {
				return err
			}
		}
		d, err := cl.SetDiskQoS(ctx, c.Disk, x)
		if errors.Is(err, errs.ErrInvalid) {
			return &hinted{err, "see ashlar disk set --help, and for what it has now ashlar disk show " + c.Disk}
		}
		if err != nil {
			return explain(err, c.Disk)
		}
		return s.show(viewDisk(d), func(w io.Writer) { fmt.Fprintf(w, "disk %s: %s\n", d.Name, qosText(d.Qos)) })
	})
}

// qosView is the limits of a disk in JSON; 0: not limited, of a burst: a tenth of a second's worth.
type qosView struct {
	IOPS           uint64 `json:"iops"`
	IOPSBurst      uint64 `json:"iopsBurst"`
	BytesPerSecond uint64 `json:"bytesPerSecond"`
	BurstBytes     uint64 `json:"burstBytes"`
}

func viewQoS(q *api.QoS) qosView {
	return qosView{IOPS: q.GetIops(), IOPSBurst: q.GetIopsBurst(), BytesPerSecond: q.GetBytesPerSecond(), BurstBytes: q.GetBurstBytes()}
}

// qosText says the limits in words.
func qosText(q *api.QoS) string {
	var parts []string
	add := func(rate, burst string, limited, bursts bool) {
		switch {
		case limited && bursts:
			parts = append(parts, rate+" (burst "+burst+")")
		case limited:
			parts = append(parts, rate)
		}
	}
	add(fmt.Sprintf("%d IOPS", q.GetIops()), strconv.FormatUint(q.GetIopsBurst(), 10), q.GetIops() > 0, q.GetIopsBurst() > 0)
	add(size(q.GetBytesPerSecond())+"/s", size(q.GetBurstBytes()), q.GetBytesPerSecond() > 0, q.GetBurstBytes() > 0)
	if len(parts) == 0 {
		return "not limited"
	}
	return strings.Join(parts, ", ")
}
