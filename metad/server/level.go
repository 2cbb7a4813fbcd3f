package server

import (
	"context"
	"time"

	"ashlar.dev/metad/state"
)

// raiseEvery is the pause between two looks at whether all members know the newest level.
const raiseEvery = time.Second

// raise commits the newest level when every member has said that it knows it: what is new
// in a version is used when all members have it, and not before.
func (r *reign) raise() {
	now := r.s.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.raising || now < r.mu.raiseAt {
		return
	}
	level := state.LevelNewest
	r.s.node.View(func(m *state.Machine) { level = m.Level() })
	if level >= state.LevelNewest {
		return
	}
	r.mu.raiseAt = now + raiseEvery
	r.mu.raising = r.s.group.Go("level", func(context.Context) error {
		r.tryRaise()
		r.mu.Lock()
		r.mu.raising = false
		r.mu.Unlock()
		return nil
	})
}

func (r *reign) tryRaise() {
	members := r.s.node.Members()
	said := r.s.describeAll(r.ctx, members)
	for _, m := range members {
		if d := said[m.ID]; d == nil || d.GetLevel() < uint32(state.LevelNewest) {
			return // it does not answer, or is of an earlier version
		}
	}
	ctx, cancel := context.WithTimeout(r.ctx, changeTimeout)
	defer cancel()
	if res, err := r.s.node.Apply(ctx, &state.SetLevel{Level: state.LevelNewest}); err != nil || res.Err != nil {
		r.s.log.Debug("level not raised yet", "err", err, "refused", res.Err)
		return
	}
	r.s.log.Info("all members are of this version, what is new in it is used now", "level", state.LevelNewest)
}

// raising tells whether this leader is about to raise the level: it leads only for moments.
func (s *Server) raising() bool {
	r := s.reign.Load()
	return r != nil && s.clock.Now()-r.began < 5*raiseEvery
}
