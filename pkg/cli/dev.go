package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/telemetry"
)

type devCommand struct {
	Metad     *int            `help:"Members of the metadata group, an odd number (first run only)." placeholder:"3"`
	Blockd    *int            `help:"Storage daemons (first run only)." placeholder:"3"`
	Stores    *int            `help:"Stores of each (first run only)." placeholder:"2"`
	StoreSize config.ByteSize `help:"Size of each store (first run only)." placeholder:"10GiB"`
	NoRestart bool            `help:"Leave a daemon that died dead."`

	SyncDelay    config.Duration `help:"Debug: hold back every fdatasync of every store this long, as a slow disk would." placeholder:"1ms"`
	MetadConfig  string          `help:"YAML laid over each metad's config, for experiments." placeholder:"FILE" type:"existingfile"`
	BlockdConfig string          `help:"YAML laid over each blockd's config, for experiments." placeholder:"FILE" type:"existingfile"`

	SnapshotdConfig string          `help:"YAML laid over the snapshotd's config, for experiments." placeholder:"FILE" type:"existingfile"`
	S3              string          `name:"s3" help:"Keep the archive in a bucket of an S3 server instead of the folder: https://HOST:PORT/BUCKET[/PREFIX]." placeholder:"URL"`
	S3Credentials   string          `name:"s3-credentials" help:"File with the lines access_key = … and secret_key = …, readable by you only." placeholder:"FILE" type:"existingfile"`
	S3Lock          config.Duration `name:"s3-lock" help:"Lock what is archived there, and backups of metad, for so long (object lock): nobody can delete or change it before." placeholder:"30d"`
	S3LockMode      string          `name:"s3-lock-mode" help:"governance, or compliance: that lock is taken away by nobody." placeholder:"governance"`
	S3CA            string          `name:"s3-ca" help:"File of certificates to trust for it instead of the system's." placeholder:"FILE" type:"existingfile"`
}

// Help is the long form.
func (devCommand) Help() string {
	return `Starts metad, blockd and snapshotd as they run in production, each a process of its own, and stays in
the foreground. The first run makes certificates, chooses ports and formats stores in the
folder given by --data; later runs find everything there. A line beginning with "ready" tells
that the cluster serves. SIGINT or SIGTERM ends it cleanly.

Everything listens on loopback only. NBD over TCP takes clients without certificates there, as
the unix sockets do; a blockd in production requires them (nbd.tls). pki/nbd has a certificate
for clients that want TLS.

In the folder: cluster.yaml (ports and addresses, chosen once), config/, pki/, data/, archive/
(archived snapshots, unless --s3 says where), run/NAME.pid and log/NAME.log of each daemon.`
}

// Run is called by kong.
func (c *devCommand) Run(ctx context.Context, s *session) error {
	if s.flags.Data == "" {
		return &hinted{fmt.Errorf("where to keep the cluster is not said: %w", errs.ErrInvalid), "give --data DIR or set ASHLAR_DATA; a new folder is made"}
	}
	var s3 *devcluster.S3Config
	if c.S3 != "" {
		var err error
		if s3, err = devcluster.ParseS3(c.S3, c.S3Credentials, c.S3CA); err != nil {
			return err
		}
	} else if c.S3Lock > 0 {
		return &hinted{fmt.Errorf("only a bucket of S3 can lock what is in it: %w", errs.ErrInvalid), "give --s3, or leave --s3-lock out"}
	}
	o := devcluster.Options{
		Dir: s.flags.Data, StoreSize: c.StoreSize, NoRestart: c.NoRestart,
		SyncDelay: c.SyncDelay, MetadOverlay: c.MetadConfig, BlockdOverlay: c.BlockdConfig, SnapshotdOverlay: c.SnapshotdConfig, S3: s3, Lock: devcluster.LockConfig{For: c.S3Lock, Mode: c.S3LockMode}, Out: s.Out,
	}
	for _, x := range []struct {
		flag  string
		given *int
		to    *int
	}{{"--metad", c.Metad, &o.Metads}, {"--blockd", c.Blockd, &o.Blockds}, {"--stores", c.Stores, &o.Stores}} {
		if x.given == nil {
			continue
		}
		if *x.given < 1 {
			return fmt.Errorf("%s %d: want at least one: %w", x.flag, *x.given, errs.ErrInvalid)
		}
		*x.to = *x.given
	}
	err := s.Dev(ctx, o)
	if errors.Is(err, errs.ErrConflict) {
		return &hinted{err, "it serves already: ashlar --data " + o.Dir + " status; another cluster needs another --data"}
	}
	return err
}

type versionCommand struct{}

// Run is called by kong.
func (c *versionCommand) Run(s *session) error {
	product, goVersion := telemetry.Version()
	return s.show(struct {
		Version string `json:"version"`
		Go      string `json:"go"`
	}{product, goVersion}, func(w io.Writer) { fmt.Fprintf(w, "ashlar %s (%s)\n", product, goVersion) })
}
