package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Without this a run could look for no secret at all, and find none.
func TestSecretsAreKnownAndFound(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	if _, err := SecretsIn(dir); err == nil {
		t.Error("a folder without secrets is taken for a cluster's")
	}
	write("b1.key", "-----BEGIN KEY-----\nMIGHAgEAMBMGByqGSM49\nAgEGCCqGSM49AwEHBG0w\n-----END KEY-----\n")
	credentials, key := write("credentials", "access_key = tester\nsecret_key = hidden-from-logs\n"), write("archive", strings.Repeat("c5", 32)+"\n")
	write("s1.yaml", "id: s1\narchive: {store: {s3: {credentials: "+credentials+"}}, key_file: "+key+"}\n")
	s, err := SecretsIn(dir)
	if err != nil || len(s) != 4 {
		t.Fatalf("%d secrets, %v", len(s), err)
	}
	for text, shows := range map[string]bool{
		"level=INFO msg=serving":                                false,
		"level=INFO msg=key key=AgEGCCqGSM49AwEHBG0w":           true,
		"-----BEGIN KEY-----":                                   false, // without the key it is none
		"request signed with hidden-from-logs by tester":        true,
		"request by tester":                                     false,
		"sealed with " + strings.Repeat("c5", 32) + " for good": true,
	} {
		if err := s.CheckFiles(write("b1.log", text)); (err != nil) != shows {
			t.Errorf("%q: %v", text, err)
		}
	}
}
