package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/enroll"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

type clusterCommands struct {
	Init clusterInit `cmd:"" help:"Make a cluster whose first machine this is."`
	Set  clusterSet  `cmd:"" help:"Change settings of the whole cluster."`
}

// machine is what a machine is to be; cluster init and host join share it.
type machine struct {
	Address    string          `required:"" help:"Address or name by which the other machines reach this one." placeholder:"HOST"`
	Name       string          `help:"Name of this machine in the cluster; default: its host name." placeholder:"NAME"`
	Zone       string          `help:"Zone of this machine, for placement." placeholder:"ZONE"`
	State      string          `help:"Folder of the daemons' own state." default:"/var/lib/ashlar" type:"path"`
	Run        string          `help:"Folder of the NBD socket." default:"/run/ashlar" type:"path"`
	Store      []string        `help:"Folder to format as a store, best alone on its disk; may be given again." placeholder:"DIR" type:"path"`
	StoreSize  config.ByteSize `help:"How much of its disk each store may fill." placeholder:"SIZE"`
	Archive    string          `help:"Folder in which a snapshotd of this machine keeps the archive, best on a disk of another machine; snapshotd.yaml can name an S3 server instead." placeholder:"DIR" type:"path"`
	MetadPort  int             `help:"Port of metad's API; the next two are Raft's and that for joining hosts." default:"7100"`
	BlockdPort int             `help:"Port of the data path." default:"7200"`
	NBDPort    int             `name:"nbd-port" help:"Port for NBD clients." default:"10809"`
}

func (m *machine) host(s *session, roles []string) (enroll.Host, error) {
	if s.flags.Data == "" {
		return enroll.Host{}, &hinted{fmt.Errorf("where this machine's configs and keys are to be is not said: %w", errs.ErrInvalid),
			"give --data DIR or set ASHLAR_DATA; /etc/ashlar is what the systemd units expect"}
	}
	h := enroll.Host{Dir: s.flags.Data, Name: m.Name, Address: m.Address, Zone: m.Zone, State: m.State, Run: m.Run,
		Stores: m.Store, StoreSize: m.StoreSize, Archive: m.Archive, MetadPort: m.MetadPort, BlockdPort: m.BlockdPort, NBDPort: m.NBDPort}
	for _, r := range roles {
		h.Roles = append(h.Roles, pki.Role(r))
	}
	if h.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return h, fmt.Errorf("find host name: %w", err)
		}
		h.Name, _, _ = strings.Cut(name, ".")
	}
	if len(h.Stores) > 0 && h.StoreSize == 0 {
		return h, fmt.Errorf("--store needs --store-size: %w", errs.ErrInvalid)
	}
	return h, h.Validate()
}

// format formats the stores, before anything is asked of anybody.
func (m *machine) format(ctx context.Context, s *session) error {
	for _, dir := range m.Store {
		if err := s.Exec(ctx, "blockd", "store", "format", "--size", m.StoreSize.String(), dir); err != nil {
			return err
		}
	}
	return nil
}

// enrolledView is a machine that became part of a cluster, in JSON.
type enrolledView struct {
	Cluster  string   `json:"cluster"`
	Name     string   `json:"name"`
	Roles    []string `json:"roles"`
	Configs  []string `json:"configs"`
	MetadAPI string   `json:"metadApi,omitempty"`
	Raft     string   `json:"metadRaft,omitempty"`
}

func viewEnrolled(h enroll.Host, cluster string) enrolledView {
	v := enrolledView{Cluster: cluster, Name: h.Name}
	for _, r := range h.Roles {
		v.Roles = append(v.Roles, string(r))
	}
	for _, name := range []string{enroll.MetadFile, enroll.BlockdFile, enroll.SnapshotdFile, "cluster.yaml"} {
		if _, err := os.Stat(filepath.Join(h.Dir, name)); err == nil {
			v.Configs = append(v.Configs, filepath.Join(h.Dir, name))
		}
	}
	return v
}

// startHint says how the daemons of a host are started.
func startHint(w io.Writer, h enroll.Host) {
	for _, d := range []struct {
		role pki.Role
		file string
	}{{pki.RoleMetad, enroll.MetadFile}, {pki.RoleBlockd, enroll.BlockdFile}, {pki.RoleSnapshotd, enroll.SnapshotdFile}} {
		if h.Has(d.role) {
			fmt.Fprintf(w, "  start it: %s --config %s\n", d.role, filepath.Join(h.Dir, d.file))
		}
	}
}

type clusterInit struct {
	machine
	Cluster  string `help:"First part of the cluster's name; the rest is drawn." default:"ashlar"`
	NoBlockd bool   `help:"This machine keeps no data and serves no disks."`
}

// Help is the long form.
func (clusterInit) Help() string {
	return `Makes, in the folder given by --data, the key of a new cluster's CA (ca/ca.key), the certificates
and config files of this machine's metad and blockd, and cluster.yaml, by which the commands find
the cluster. It starts nothing. Others join by a token: ashlar host token.

The CA's key stays in this folder, mode 0600. It is needed when a host joins, not for anything else;
keep a copy of it off the machine. Who has it can be anybody in this cluster.`
}

// Run is called by kong.
func (c *clusterInit) Run(ctx context.Context, s *session) error {
	roles := []string{"metad", "blockd", "operator"}
	if c.NoBlockd {
		roles = []string{"metad", "operator"}
	}
	if c.Archive != "" {
		roles = append(roles, "snapshotd")
	}
	h, err := c.host(s, roles)
	if err != nil {
		return err
	}
	if err := c.format(ctx, s); err != nil {
		return err
	}
	cluster, err := enroll.Init(s.Clock, c.Cluster, h)
	if err != nil {
		return used(err)
	}
	return s.show(viewEnrolled(h, cluster), func(w io.Writer) {
		fmt.Fprintf(w, "cluster %s has its first host, %s\n", cluster, h.Name)
		startHint(w, h)
		fmt.Fprintf(w, "  invite the next: ashlar host token\n  keep a copy of %s somewhere safe\n", filepath.Join(h.Dir, "ca"))
	})
}
