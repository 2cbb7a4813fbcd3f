package server

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"ashlar.dev/blockd/chunk"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// localStore is one store of this host.
type localStore struct {
	*chunk.Store
	path   string
	filler filler // its worker is nil until startRepairs
	page   pages  // where the next pages of its lists begin; of the heartbeats alone
}

// locals are the stores that serve here, in the order in which they came. Who has the list of
// before may meet a store that is closed: it answers with errs.ErrUnavailable. The zero value is
// none; safe for concurrent use, with one writer at a time: the start, then the loop that takes signals.
type locals struct{ p atomic.Pointer[[]*localStore] }

// all is what there is now; nobody changes it.
func (l *locals) all() []*localStore {
	if p := l.p.Load(); p != nil {
		return *p
	}
	return nil
}

func (l *locals) set(all []*localStore) { l.p.Store(&all) }

func (l *locals) add(st *localStore) { l.set(append(slices.Clip(l.all()), st)) }

// reload reads the config file again and brings the stores up that it has and this process
// does not. All other keys, and stores that it does not have any more, count at the next start.
func (s *server) reload(ctx context.Context) {
	if s.cfg.file == "" {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.group.Context(), cancel)()
	cfg, err := ReadConfig(s.cfg.file)
	if err == nil && cfg.ID != s.cfg.ID {
		err = errs.ErrInvalid
	}
	if err != nil {
		s.log.Warn("config not read again", "err", err)
		s.tales.tell(client.Warning, "store_not_added", "host", "", "the config was not read again: %v", err)
		return
	}
	for _, c := range cfg.Stores {
		path := filepath.Clean(c.Path)
		if slices.ContainsFunc(s.local.all(), func(st *localStore) bool { return st.path == path }) {
			continue
		}
		if err := s.addStore(ctx, c); ctx.Err() != nil {
			return // the next start has it
		} else if err != nil {
			s.log.Warn("store not added", "path", c.Path, "err", err)
			s.tales.tell(client.Warning, "store_not_added", "host", "", "the store in %s was not added: %v", c.Path, err)
		}
	}
}

// addStore opens a store and serves it as soon as metad knows it: before that nobody could
// be led to it, and a store that metad refuses must not answer anybody.
func (s *server) addStore(ctx context.Context, c Store) error {
	if c.Format {
		if err := s.formatIfEmpty(c); err != nil {
			return err
		}
	}
	st, err := s.openStore(c)
	if err != nil {
		return err
	}
	var got client.Registered
	for {
		got, err = s.tryRegister(ctx, st)
		if !errors.Is(err, errs.ErrUnavailable) && !errors.Is(err, errs.ErrTimeout) {
			break
		}
		s.log.Info("added store waits for metad", "path", c.Path, "err", err)
		if err = s.clock.Sleep(ctx, time.Second/4); err != nil {
			break
		}
	}
	if why, is := got.Refused[st.ID()]; is && err == nil {
		err = errors.New("metad does not take it: " + why)
	}
	if err != nil {
		return errors.Join(err, st.Close())
	}
	unseal([]*localStore{st}, got.Floors)
	s.stores.addLocal(st.ID(), st.Store)
	st = s.startFiller(st)
	s.added = append(s.added, st)
	s.local.add(st)
	select {
	case s.beatNow <- struct{}{}: // metad has not heard how it fares
	default:
	}
	s.tales.tell(client.Info, "store_added", "store", st.ID().String(), "%s serves, without a restart", c.Path)
	s.log.Info("store added", "store", st.ID().String(), "path", c.Path)
	return nil
}

// closeAdded closes the stores that came after the start.
func (s *server) closeAdded() (err error) {
	for _, st := range s.added {
		err = errors.Join(err, st.Close())
	}
	return err
}

// release closes stores that were emptied and removed for good, so that their disks can be taken
// away. Their keys in the config stay: a folder that metad refuses is left out at the next start.
func (s *server) release(gone []cluster.StoreRef) {
	for _, ref := range gone {
		all := s.local.all()
		i := slices.IndexFunc(all, func(st *localStore) bool { return refOf(st.Store) == ref })
		if i < 0 {
			continue // metad names it until a heartbeat comes without it
		}
		st := all[i]
		s.local.set(slices.Delete(slices.Clone(all), i, i+1))
		s.stores.removeLocal(st.ID())
		if err := errors.Join(st.filler.group.Close(), st.Close()); err != nil {
			s.log.Warn("removed store not closed cleanly", "store", st.ID().String(), "path", st.path, "err", err)
		}
		s.tales.tell(client.Info, "store_closed", "store", st.ID().String(), "%s is closed: nothing of it is needed, its disk may be taken away", st.path)
		s.log.Info("removed store closed", "store", st.ID().String(), "path", st.path)
	}
}
