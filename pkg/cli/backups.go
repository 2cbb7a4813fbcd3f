package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

type metadBackups struct {
	List  backupsList  `cmd:"" help:"List the backups of metad's state in the archive."`
	Fetch backupsFetch `cmd:"" help:"Fetch one, checked, into a file that metad --restore takes."`
}

// backupPlace says where the archive is. It works without a cluster: that is what backups are for.
type backupPlace struct {
	From        string `help:"The archive: s3://HOST:PORT/BUCKET[/PREFIX] or file:///FOLDER. If not given, the one that a snapshotd.yaml or blockd.yaml in --data names." placeholder:"URL"`
	Credentials string `help:"File with the lines access_key = … and secret_key = … for the bucket, readable by you only." placeholder:"FILE" type:"existingfile"`
	CA          string `name:"ca" help:"File of certificates to trust for it instead of the system's." placeholder:"FILE" type:"existingfile"`
	Region      string `help:"What requests to it are signed for." placeholder:"REGION"`
	KeyFile     string `help:"File with the key of an encrypted archive, readable by you only." placeholder:"FILE" type:"existingfile"`
	Cluster     string `help:"Backups of this cluster only, by its name." placeholder:"NAME"`
}

const backupsHelp = `Snapshotds put metad's state into the archive every hour and keep 48 (backup in snapshotd.yaml). The archive is
read directly, so this works when nothing of the cluster runs any more.`

// configured is the archive that a daemon's file in the cluster's folder names.
func (p *backupPlace) configured(data string) (c archive.Config, err error) {
	names := []string{filepath.Join(data, "snapshotd.yaml"), filepath.Join(data, "config", "s1.yaml"), filepath.Join(data, "blockd.yaml")}
	for _, name := range names {
		var text []byte
		if text, err = os.ReadFile(name); errors.Is(err, os.ErrNotExist) {
			continue
		}
		var file struct {
			Archive archive.Config `yaml:"archive"`
		}
		if err == nil {
			err = yaml.Unmarshal(text, &file)
		}
		if err != nil {
			return c, fmt.Errorf("read %s: %w: %w", name, errs.ErrInvalid, err)
		}
		if file.Archive.Store.Given() {
			return file.Archive, nil
		}
	}
	return c, &hinted{fmt.Errorf("where the archive is is not said, and no file in %s names it: %w", dash(data), errs.ErrInvalid),
		"give --from s3://HOST:PORT/BUCKET --credentials FILE, or --from file:///FOLDER"}
}

func (p *backupPlace) open(ctx context.Context, s *session) (objectstore.Store, *archive.Secret, error) {
	var c archive.Config
	var err error
	if p.From == "" {
		if c, err = p.configured(s.flags.Data); err != nil {
			return nil, nil, err
		}
	} else {
		if c.Store, err = objectstore.ParsePlace(p.From); err != nil {
			return nil, nil, err
		}
		c.Store.S3.Credentials, c.Store.S3.CA = p.Credentials, p.CA
		if p.Region != "" {
			c.Store.S3.Region = p.Region
		}
	}
	if p.KeyFile != "" {
		c.KeyFile, c.KeyCommand = p.KeyFile, nil
	}
	c.Store.EnsureDefaults()
	if err := errors.Join(c.Store.Validate(), c.Validate()); err != nil {
		return nil, nil, err
	}
	if c.Store.Directory != "" { // reading makes no folder
		if _, err := os.Stat(c.Store.Directory); err != nil {
			return nil, nil, fmt.Errorf("the archive: %w: %w", errs.ErrNotFound, err)
		}
	}
	return c.Open(ctx, s.Clock)
}

// backupView is a backup in the archive, in JSON.
type backupView struct {
	Backup  string `json:"backup"` // its key
	Cluster string `json:"cluster"`
	Taken   string `json:"taken"`
	Entry   uint64 `json:"entry"` // of metad's log
	Bytes   uint64 `json:"bytes"`
}

func viewBackup(b archive.Backup) backupView {
	return backupView{b.Key, b.Cluster, rfc3339(b.Taken.UnixMilli()), b.Entry, b.Size}
}

type backupsList struct{ backupPlace }

// Help is printed by kong below the summary.
func (c *backupsList) Help() string { return backupsHelp }

// Run is called by kong.
func (c *backupsList) Run(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, s.flags.Timeout)
	defer cancel()
	store, _, err := c.open(ctx, s)
	if err != nil {
		return err
	}
	all, err := archive.ListBackups(ctx, store, c.Cluster)
	if err != nil {
		return err
	}
	views, rows := make([]backupView, len(all)), make([][]string, len(all))
	for i, b := range all {
		views[i] = viewBackup(b)
		rows[i] = []string{b.Key, views[i].Taken, fmt.Sprint(b.Entry), size(b.Size)}
	}
	return s.show(views, func(w io.Writer) {
		if len(all) == 0 {
			fmt.Fprintf(w, "%s has no backups of metad\n", store)
			return
		}
		table(w, []string{"BACKUP", "TAKEN", "ENTRY", "SIZE"}, rows)
	})
}

type backupsFetch struct {
	backupPlace
	File   string `arg:"" help:"File to write; one that is there is replaced whole." type:"path"`
	Backup string `help:"This one, as list shows it, instead of the newest that is whole." placeholder:"BACKUP"`
}

// Help is printed by kong below the summary.
func (c *backupsFetch) Help() string {
	return backupsHelp + `

When all metads are lost: fetch the newest, move the data folder of one metad away, and
  metad --config metad.yaml --restore FILE    there
  ashlar metad rebuild                        which stores have told what they have
  ashlar metad rebuild --finish               when all have`
}

// fetchBackupsMax is how many are tried if the newest are damaged.
const fetchBackupsMax = 3

// Run is called by kong.
func (c *backupsFetch) Run(ctx context.Context, s *session) error {
	store, secret, err := c.open(ctx, s)
	if err != nil {
		return err
	}
	all, err := c.candidates(ctx, store)
	if err != nil {
		return err
	}
	var file []byte
	var is *cluster.Backup
	for n := 1; ; n, all = n+1, all[1:] {
		if file, is, err = archive.ReadBackup(ctx, store, all[0].Key, secret); !errors.Is(err, errs.ErrCorrupt) || len(all) == 1 || n == fetchBackupsMax {
			break
		}
		fmt.Fprintf(s.Err, "ashlar: %v; taking the one before\n", err)
	}
	if errors.Is(err, errs.ErrDenied) {
		return &hinted{err, "give the archive's key with --key-file"}
	}
	if err == nil {
		err = config.WriteFile(c.File, file, 0o600)
	}
	if err != nil {
		return err
	}
	v := struct {
		backupView
		File   string `json:"file"`
		Member string `json:"member"`
	}{viewBackup(all[0]), c.File, is.Member}
	return s.show(v, func(w io.Writer) {
		fmt.Fprintf(w, "%s has the state of cluster %s of %s, %s\n  metad --config metad.yaml --restore %s\n", filepath.Base(c.File), is.Cluster, v.Taken, size(uint64(len(file))), c.File)
	})
}

// candidates are the backups to try, the newest first, of one cluster.
func (c *backupsFetch) candidates(ctx context.Context, store objectstore.Store) ([]archive.Backup, error) {
	all, err := archive.ListBackups(ctx, store, c.Cluster)
	if err != nil {
		return nil, err
	}
	var out []archive.Backup
	clusters := make(map[string]bool)
	for i := len(all) - 1; i >= 0; i-- {
		if c.Backup == "" || all[i].Key == strings.Trim(c.Backup, "/") {
			clusters[all[i].Cluster] = true
			out = append(out, all[i])
		}
	}
	switch {
	case len(out) == 0 && c.Backup != "":
		return nil, &hinted{fmt.Errorf("backup %.200q: %w", c.Backup, errs.ErrNotFound), "ashlar metad backups list shows them all"}
	case len(out) == 0:
		return nil, fmt.Errorf("%s has no backups of metad: %w", store, errs.ErrNotFound)
	case len(clusters) > 1:
		return nil, &hinted{fmt.Errorf("%s has backups of %d clusters: %w", store, len(clusters), errs.ErrInvalid), "say which one is meant: --cluster NAME"}
	}
	return out, nil
}

// backupsView is what is known of the backups in the archive, in JSON.
type backupsView struct {
	Newest string `json:"newest"` // when; empty: none
	Backup string `json:"backup"` // its key
	Bytes  uint64 `json:"bytes"`
	Count  uint32 `json:"count"`
	Every  uint32 `json:"everySeconds"`
	Keep   uint32 `json:"keep"`
	Place  string `json:"place"`
	Worker string `json:"worker"`
	Late   bool   `json:"late"`
	Failed string `json:"failed,omitempty"`
}

func viewBackups(x *api.BackupStatus) *backupsView {
	if x == nil {
		return nil
	}
	r := x.GetReport()
	v := &backupsView{Backup: r.GetNewestKey(), Bytes: r.GetNewestBytes(), Count: r.GetCount(), Every: r.GetEverySeconds(), Keep: r.GetKeep(),
		Place: x.GetPlace(), Worker: x.GetWorker(), Late: x.GetLate(), Failed: r.GetFailed()}
	if r.GetNewestUnixMs() != 0 {
		v.Newest = rfc3339(r.GetNewestUnixMs())
	}
	return v
}

// printBackup says how old the last backup of metad's state is, where snapshotds make any.
func printBackup(w io.Writer, x *api.BackupStatus, atUnixMS int64) {
	r := x.GetReport()
	if r == nil {
		return
	}
	last := "none yet"
	if t := r.GetNewestUnixMs(); t != 0 {
		ago := max(time.Duration(atUnixMS-t)*time.Millisecond, 0).Round(time.Second)
		last = fmt.Sprintf("of metad %s ago, %d kept", ago, r.GetCount())
	}
	fmt.Fprintf(w, "backup  %s, in %s", last, x.GetPlace())
	if r.GetFailed() != "" {
		fmt.Fprintf(w, "; the last try failed: %s", r.GetFailed())
	}
	fmt.Fprintln(w)
}
