package lifecycle

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// child runs this test binary again as a service that a manager hands two sockets.
func child(t *testing.T, env ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestInheritedChild$", "-test.v")
	cmd.Env = append(append(os.Environ(), "INHERIT_CHILD=1"), env...)
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// This is the child that TestInherited starts: it looks for the sockets that it was given.
func TestInheritedChild(t *testing.T) {
	if os.Getenv("INHERIT_CHILD") == "" {
		t.Skip("it is the child of TestInherited")
	}
	all, err := Inherited()
	t.Logf("has %d, %v", len(all), err)
	again, err := Inherited()
	t.Logf("then %d, %v", len(again), err)
	for _, l := range all {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Error(err)
			continue
		}
		_ = c.Close() // it was let in, that is all
	}
}

// Without this clients would be refused while their daemon is started again, or a
// process would take its parent's sockets for its own.
func TestInherited(t *testing.T) {
	for _, c := range []struct{ name, want, env string }{
		{"two sockets", "has 2, <nil>", "LISTEN_FDS=2"},
		{"none", "has 0, <nil>", "LISTEN_FDS=0"},
		{"another process's", "has 0, <nil>", "LISTEN_FDS=2 LISTEN_PID=1"},
		{"nonsense", "invalid", "LISTEN_FDS=many"},
		{"what is no socket", "take over socket", "LISTEN_FDS=40"},
	} {
		out := child(t, strings.Fields(c.env)...)
		if !strings.Contains(out, c.want) || !strings.Contains(out, "then 0, <nil>") {
			t.Errorf("%s: want %q: %s", c.name, c.want, out)
		}
	}
}
