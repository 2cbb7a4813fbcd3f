// Package cli is the ashlar command: a plain client of the cluster's API, for people
// (tables, sizes as they write them, errors that say what to do next) and for scripts
// (-o json, exit codes). Run is the whole of it; the binary is in pkg/cli/ashlar.
//
// Scripts may rely on the JSON keys, on the exit codes in errors.go and on the line
// beginning with "ready" of ashlar dev; everything else may be worded better any day.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/alecthomas/kong"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Cluster is what the commands ask of a cluster; *client.Cluster is the real one.
type Cluster interface {
	images
	freezes
	bin
	Status(ctx context.Context, withLists bool) (*api.StatusReply, error)
	Stores(ctx context.Context) ([]*api.Store, error)
	RollbackDisk(ctx context.Context, disk, snapshot string) (*api.Snapshot, error)
	CloneDisk(ctx context.Context, x client.Clone) (*api.Disk, error)
	RestoreDisk(ctx context.Context, x client.Restore) (*api.Disk, error)
	SetHydrate(ctx context.Context, disk string, rate uint64) (*api.Disk, error)
	FlattenDisk(ctx context.Context, disk string, rate uint64, stop bool) (*api.Disk, error)
	SetProtection(ctx context.Context, disk string, on bool) (*api.Disk, error)
	CreateLimitedDisk(ctx context.Context, name string, sizeBytes uint64, q cluster.QoS) (*api.Disk, error)
	SetDiskQoS(ctx context.Context, nameOrID string, x cluster.QoSChange) (*api.Disk, error)
	Disks(ctx context.Context) ([]*api.Disk, error)
	Disk(ctx context.Context, nameOrID string) (*api.Disk, error)
	ResizeDisk(ctx context.Context, nameOrID string, sizeBytes uint64) (*api.Disk, error)
	DeleteDisk(ctx context.Context, nameOrID string, d client.Deletion) (client.Deleted, error)
	DiskEndpoints(ctx context.Context, nameOrID string) (*api.DiskEndpointsReply, error)
	CreateSnapshot(ctx context.Context, disk, name string) (*api.Snapshot, error)
	CreateSnapshots(ctx context.Context, disks []string, name string) ([]*api.Snapshot, error)
	Snapshots(ctx context.Context, disk string) (all []*api.Snapshot, more bool, err error)
	DeleteSnapshot(ctx context.Context, disk, snapshot string, purge bool) (*api.Snapshot, error)
	SetPolicy(ctx context.Context, name string, rules *api.PolicyRules, change bool) (*api.Policy, error)
	DeletePolicy(ctx context.Context, name string) (*api.Policy, error)
	ApplyPolicy(ctx context.Context, name string, disks []string, off bool) (*api.Policy, error)
	Policies(ctx context.Context) ([]*api.Policy, error)
	ArchiveSnapshot(ctx context.Context, disk, snapshot string, cancel bool) (*api.ArchiveStatus, error)
	Archive(ctx context.Context, disk, snapshot string) (*api.ArchiveStatus, error)
	ArchiveTask(ctx context.Context, q *api.ArchiveTaskRequest) (*api.ArchiveTaskReply, error)
	DeclareStoreLost(ctx context.Context, storeID, incarnation string, acceptLoss bool) error
	DrainStore(ctx context.Context, storeID string, stop bool) (*api.DrainStoreReply, error)
	AcceptLoss(ctx context.Context, nameOrID string, e id.Ensemble) (*api.Disk, error)
	MoveDisk(ctx context.Context, nameOrID, host string) (*api.Disk, error)
	Events(ctx context.Context, after uint64, since time.Time, limit int, wait time.Duration) ([]*api.Event, uint64, error)
	SetCluster(ctx context.Context, req *api.SetClusterRequest) (*api.ClusterSettings, error)
	CordonHost(ctx context.Context, host string, off bool) (*api.Host, error)
	RemoveHost(ctx context.Context, host string) error
	LostRanges(ctx context.Context, disk string, q cluster.Look) (*api.LostRangesReply, error)
	Scrub(ctx context.Context, scrub [16]byte, target string) (*api.ScrubReply, error)
	Close() error
}

// Surroundings are what a command reaches beside its arguments.
type Surroundings struct {
	In       io.Reader
	Out, Err io.Writer
	Clock    clock.Clock
	// Connect finds the cluster whose folder is dir.
	Connect func(dir string) (Cluster, error)
	// ConnectMembers is Connect for the group itself.
	ConnectMembers func(dir string) (Members, error)
	// Dev runs a whole cluster until ctx ends.
	Dev func(ctx context.Context, o devcluster.Options) error
	// Exec runs a program that stands beside ours and passes its output on.
	Exec func(ctx context.Context, program string, args ...string) error
	// ExecOutput is Exec for a program whose output is wanted here.
	ExecOutput func(ctx context.Context, program string, args ...string) (string, error)
	// DiskFiles finds what converts between files and disks.
	DiskFiles func() (DiskFiles, error)
	// Changes is client.Changes.
	Changes func(ctx context.Context, uri, since string, each func(client.Change) error) error
}

// grammar is the command line. Its help texts are the manual.
type grammar struct {
	Data    string        `help:"Folder of the cluster: the one given to ashlar dev, cluster init or host join, or any with a cluster.yaml that names metad's addresses and your certificate." placeholder:"DIR" env:"ASHLAR_DATA" type:"path"`
	Output  string        `short:"o" help:"How to print: a table for people, json for programs." enum:"table,json" default:"table" placeholder:"table|json"`
	Timeout time.Duration `help:"Longest wait for the cluster's answer." default:"15s"`

	Dev      devCommand       `cmd:"" help:"Run a whole cluster on this machine, in the foreground."`
	Status   statusCommand    `cmd:"" help:"Show the health of the cluster, with reasons."`
	Top      topCommand       `cmd:"" help:"Follow what disks and stores do, live: IOPS, bandwidth, latency."`
	Events   eventsCommand    `cmd:"" help:"Show what happened: to stores, disks, repairs, hosts, metads, certificates."`
	Disk     diskCommands     `cmd:"" help:"Create, list, grow, delete and attach disks."`
	Snapshot snapshotCommands `cmd:"" help:"Keep disks as they are at a moment."`
	Trash    trashCommands    `cmd:"" help:"Bring deleted disks and snapshots back, or delete them for good."`
	Image    imageCommands    `cmd:"" help:"Keep what disks are made of: images."`
	Policy   policyCommands   `cmd:"" help:"Take snapshots at times of the day, and delete them when they have had their time."`
	Archive  archiveCommands  `cmd:"" help:"Look after the archive of snapshots."`
	Store    storeCommands    `cmd:"" help:"Look at the stores that hold the data."`
	Scrub    scrubCommand     `cmd:"" help:"Have stores look at all their shards now, and mend what is wrong."`
	Cluster  clusterCommands  `cmd:"" help:"Make a cluster on several machines."`
	Host     hostCommands     `cmd:"" help:"Invite machines and let them join."`
	CA       caCommands       `cmd:"" name:"ca" help:"Look after certificates and the CA."`
	Metad    metadCommands    `cmd:"" help:"Look after the metadata group."`
	Blockd   blockdCommands   `cmd:"" help:"Prepare a storage host."`
	Debug    debugCommands    `cmd:"" help:"Gather what helps to find out what is wrong."`
	Version  versionCommand   `cmd:"" help:"Print the version."`
}

const description = `Disks that survive: replicated, erasure coded, served over NBD.

  ashlar dev --data DIR                  run a cluster on this machine
  export ASHLAR_DATA=DIR                 say which cluster is meant
  ashlar disk create data --size 4GiB    make a disk
  ashlar disk nbd data                   where to attach it

Sizes are written as 4GiB, 64MiB, 1.5T or plain bytes; K, M, G, T are powers of 1024,
KB, MB, GB, TB powers of 1000.

Exit codes: 0 done, 1 failed, 2 wrong usage or refused as invalid, 3 not found,
4 cluster unavailable or too slow, 5 conflict (exists already, in use), 6 not permitted,
7 no space.`

// session is what a command runs with.
type session struct {
	Surroundings
	flags *grammar
}

// Run carries out one command line, without the program's name, and gives the exit code.
func Run(ctx context.Context, args []string, s Surroundings) int {
	var g grammar
	exited := -1
	parser, err := kong.New(&g, kong.Name("ashlar"), kong.Description(description), kong.Writers(s.Out, s.Err),
		kong.Exit(func(code int) { exited = code }), kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}))
	if err != nil {
		panic("cli: the grammar is wrong: " + err.Error())
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if exited >= 0 { // --help has printed
		return exited
	}
	if err != nil {
		return usage(s.Err, err)
	}
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(&session{Surroundings: s, flags: &g}); err != nil {
		return report(s.Err, err)
	}
	return codeOK
}

func usage(w io.Writer, err error) int {
	where := "ashlar --help"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if path := parse.Context.Command(); path != "" {
			where = "ashlar " + firstWords(path) + " --help"
		}
	}
	fmt.Fprintf(w, "ashlar: %v\n  see %s\n", err, where)
	return codeUsage
}

// firstWords drops the argument placeholders from a command's path.
func firstWords(path string) string {
	for i, r := range path {
		if r == '<' || r == '[' {
			return path[:max(i-1, 0)]
		}
	}
	return path
}

// with connects, runs f under the time limit and disconnects.
func (s *session) with(ctx context.Context, f func(context.Context, Cluster) error) error {
	return s.hold(func(c Cluster) error {
		ctx, cancel := context.WithTimeout(ctx, s.flags.Timeout)
		defer cancel()
		return f(ctx, c)
	})
}

// hold is with for what has no end of its own.
func (s *session) hold(f func(Cluster) error) error {
	if s.flags.Data == "" {
		return &hinted{fmt.Errorf("which cluster is meant is not said: %w", errs.ErrInvalid),
			"give --data DIR or set ASHLAR_DATA to the folder given to ashlar dev"}
	}
	c, err := s.Connect(s.flags.Data)
	if err != nil {
		return err
	}
	return errors.Join(f(c), c.Close())
}
