package server

import (
	"context"
	"errors"
	"testing"
)

// Copies hold objects in memory: one more than may go on waits, is not counted, and goes on when another has ended.
func TestCopiesWaitTheirTurn(t *testing.T) {
	s := &server{cfg: Config{Uploads: 2, ObjectsAtOnce: 4}}
	s.work = newWork(s)
	var ends []func()
	for range copiesMax {
		done, err := s.work.copyTurn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, done)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := s.work.copyTurn(stopped); !errors.Is(err, context.Canceled) {
		t.Fatalf("a copy beyond the limit began: %v", err)
	}
	uses := s.memory().Uses
	if u := uses[1]; u.Used != u.Limit || u.Limit != copiesMax*4*objectBytes {
		t.Fatalf("%+v while %d copies go on", u, copiesMax)
	}
	if u := uses[0]; u.Used != 0 || u.Limit != 2*4*objectBytes {
		t.Fatalf("%+v while no upload goes on", u)
	}
	ends[0]()
	done, err := s.work.copyTurn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done()
	ends[1]()
	if u := s.memory().Uses[1]; u.Used != 0 {
		t.Fatalf("%+v after all copies", u)
	}
}
