package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
)

type eventsCommand struct {
	Follow bool     `short:"f" help:"Go on and print what happens, until interrupted. It waits for metad when metad is away."`
	Since  string   `help:"Only what happened since then: a duration back, such as 2h, or a time such as 2026-01-02T15:04:05Z." placeholder:"WHEN"`
	Last   int      `short:"n" help:"Only the last so many of what is kept; 0: all, with --follow none." default:"50"`
	About  []string `help:"Only about these: store, disk, repair, host, member, cluster or identity; may be given again." enum:"store,disk,repair,host,member,cluster,identity"`
	Of     string   `help:"Only of this store, disk (by name), host or member." placeholder:"NAME"`
}

// Help is the long form.
func (eventsCommand) Help() string {
	return `The last some thousand events are kept by metad, those that matter more for longer, through
restarts and changes of leader. With -o json and --follow each event is one line.`
}

// eventView is an event in JSON.
type eventView struct {
	Seq      uint64 `json:"seq"`
	At       string `json:"at"`
	Severity string `json:"severity"` // info, warning or trouble
	Kind     string `json:"kind"`
	About    string `json:"about"`
	Subject  string `json:"subject,omitempty"`
	Text     string `json:"text"`
	By       string `json:"by,omitempty"`
}

func viewEvent(e *api.Event) eventView {
	return eventView{Seq: e.Seq, At: time.UnixMilli(e.AtUnixMs).UTC().Format("2006-01-02T15:04:05.000Z"),
		Severity: strings.ToLower(strings.TrimPrefix(e.Severity.String(), "SEVERITY_")), Kind: e.Kind, About: e.About, Subject: e.Subject, Text: e.Text, By: e.By}
}

// eventsPage is how many events are asked for at once.
const eventsPage = 1000

// Run is called by kong.
func (c *eventsCommand) Run(ctx context.Context, s *session) error {
	since, err := c.since(s.Clock.Wall())
	if err != nil {
		return err
	}
	if c.Last < 0 {
		return &hinted{fmt.Errorf("-n %d: %w", c.Last, errs.ErrInvalid), "give how many to show, or 0"}
	}
	var kept []*api.Event
	last := uint64(0)
	err = s.with(ctx, func(ctx context.Context, cl Cluster) error {
		for {
			page, _, err := cl.Events(ctx, last, since, eventsPage, 0)
			if err != nil {
				return err
			}
			for _, e := range page {
				last = e.Seq
				if c.wants(e) {
					kept = append(kept, e)
				}
			}
			if len(page) < eventsPage {
				return nil
			}
		}
	})
	if err != nil && !(c.Follow && unreachable(err)) {
		return err
	}
	if len(kept) > c.Last && (c.Last > 0 || c.Follow) {
		kept = kept[len(kept)-c.Last:]
	}
	if c.Follow {
		for _, e := range kept {
			c.line(s, e)
		}
		return c.follow(ctx, s, last)
	}
	views := make([]eventView, len(kept))
	for i, e := range kept {
		views[i] = viewEvent(e)
	}
	return s.show(views, func(w io.Writer) {
		if len(kept) == 0 {
			fmt.Fprintln(w, "no events")
		}
		for _, v := range views {
			printEvent(w, v)
		}
	})
}

// since reads a duration back, or a time.
func (c *eventsCommand) since(now time.Time) (time.Time, error) {
	if c.Since == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(c.Since); err == nil {
		return now.Add(-d.Abs()), nil
	}
	t, err := time.Parse(time.RFC3339, c.Since)
	if err != nil {
		return t, &hinted{fmt.Errorf("--since %q: %w", c.Since, errs.ErrInvalid), "write it like 30m, 2h or 2026-01-02T15:04:05Z"}
	}
	return t, nil
}

func (c *eventsCommand) wants(e *api.Event) bool {
	if c.Of != "" && e.Subject != c.Of && e.By != c.Of {
		return false
	}
	if len(c.About) == 0 {
		return true
	}
	for _, a := range c.About {
		if e.About == a {
			return true
		}
	}
	return false
}

// follow prints what comes until ctx ends. A metad that is away is waited for.
func (c *eventsCommand) follow(ctx context.Context, s *session, last uint64) error {
	return s.hold(func(cl Cluster) error {
		silent := false
		for ctx.Err() == nil {
			call, cancel := context.WithTimeout(ctx, s.flags.Timeout)
			page, newest, err := cl.Events(call, last, time.Time{}, eventsPage, client.EventsWaitMax)
			cancel()
			switch {
			case ctx.Err() != nil:
				return nil
			case unreachable(err):
				if !silent {
					fmt.Fprintf(s.Err, "ashlar: %v; waiting for it\n", err)
				}
				silent = true
				_ = s.Clock.Sleep(ctx, time.Second) // the loop sees the end of ctx
				continue
			case err != nil:
				return err
			}
			silent = false
			if newest < last {
				last = 0 // the state was restored from a backup
			}
			for _, e := range page {
				if last = e.Seq; c.wants(e) {
					c.line(s, e)
				}
			}
		}
		return nil
	})
}

func (c *eventsCommand) line(s *session, e *api.Event) {
	v := viewEvent(e)
	if s.flags.Output != "json" {
		printEvent(s.Out, v)
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic("cli: an event has no JSON: " + err.Error())
	}
	fmt.Fprintf(s.Out, "%s\n", b)
}

func printEvent(w io.Writer, v eventView) {
	mark := " "
	switch v.Severity {
	case "warning":
		mark = "!"
	case "trouble":
		mark = "X"
	}
	line := fmt.Sprintf("%s %s %-17s", v.At[:19]+"Z", mark, v.Kind)
	if v.Subject != "" {
		line += " " + v.Subject + ":"
	}
	line += " " + v.Text
	if v.By != "" {
		line += " (by " + v.By + ")"
	}
	fmt.Fprintln(w, strings.TrimRight(line, " "))
}
