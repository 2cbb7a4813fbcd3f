package server

import (
	"context"
	"errors"
	"time"

	"ashlar.dev/blockd/hooks"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/id"
)

// hookTold bounds how long metad is told of one order; it gives it again.
const hookTold = 10 * time.Second

// hooking is an order being carried out.
type hooking struct {
	freeze id.Raw
	thaw   bool
}

// openHooks thaws what a life before left frozen, before anything else can fail.
func (s *server) openHooks() (err error) {
	s.hooks, err = hooks.Open(hooks.Options{Hooks: s.cfg.Hooks, Dir: s.cfg.frozenFolder(), Clock: s.clock, Log: s.log})
	if err == nil {
		s.stack.PushCloser("hooks", s.hooks.Close)
	}
	return err
}

// watchHooks carries out what metad orders about applications on this host.
func (s *server) watchHooks(ctx context.Context) error {
	if len(s.cfg.Hooks) == 0 {
		return nil
	}
	s.metad.WatchHooks(ctx, s.life.holder, s.hooks.Names(), func(o client.HookOrder) {
		at := hooking{o.Freeze, o.Thaw}
		if _, busy := s.snapping.LoadOrStore(at, true); busy {
			return
		}
		s.group.Go("hook", func(ctx context.Context) error {
			defer s.snapping.Delete(at)
			var x client.HookOutcome
			var err error
			if o.Thaw {
				x.Held, err = s.hooks.Thaw(ctx, hooks.ID(o.Freeze), o.Hook)
			} else {
				err = s.hooks.Freeze(ctx, hooks.ID(o.Freeze), o.Hook, o.Timeout)
			}
			if err != nil {
				x.Problem, x.Over = err.Error(), errors.Is(err, hooks.ErrEnded)
				s.log.Info("hook failed", "hook", o.Hook, "thaw", o.Thaw, "err", err)
			}
			ctx, cancel := context.WithTimeout(ctx, hookTold)
			defer cancel()
			if err := s.metad.TellHook(ctx, s.life.holder, o, x); err != nil {
				s.log.Info("metad did not hear of a hook", "hook", o.Hook, "err", err)
			}
			return nil
		})
	})
	return nil
}
