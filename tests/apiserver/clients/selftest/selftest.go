// Package selftest shows that the harness notices: for each fault of the fake plugin the case that is there for it
// fails, and says why in the words that it has for that.
package selftest

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"bulla.test/clients/check"
	"bulla.test/clients/process"
	"bulla.test/clients/search"
)

type fault struct{ fault, noticed, words string }

// Faults that the cases of the client library notice.
var libraryFaults = []fault{
	{"status-error", "status", "the plugin answers after its start"},
	{"unhealthy", "status", "healthz is"},
	{"bad-version", "status", "version is"},
	{"empty-key-id", "status", "the key id"},
	{"big-key-id", "status", "the key id"},
	{"encrypt-error", "round_trip", "Encrypt: "},
	{"decrypt-error", "round_trip", "Decrypt: "},
	{"wrong-data", "round_trip", "another plaintext"},
	{"deterministic", "round_trip", "gave 1 ciphertexts"},
	{"empty-ciphertext", "encrypt_limits", "encrypted DEK source is empty"},
	{"big-ciphertext", "encrypt_limits", "exceeds the max size"},
	{"bad-annotation", "encrypt_limits", "at least two segments"},
	{"mismatch", "key_id_mismatch", "Status names"},
	{"lagging-encrypt", "key_id_mismatch", "a call begun after"},
	{"mismatch", "write_and_read", "nil transformer"},
	{"unauthenticated", "tampered", "a wrong plaintext"},
	{"any-key-id", "tampered", "with an unknown key id"},
	{"leak", "leaks", "plugin-1.log"},
	{"constant-key-id", "rotation", "name the new key"},
	{"forgets-old", "rotation", "read first"},
	{"slow-status", "latency", "the p99 of Status"},
	{"slow-encrypt", "latency", "the p99 of Encrypt"},
	{"slow-decrypt", "latency", "the p99 of Decrypt"},
	{"outage-unnoticed", "outage", "Status tells of the outage"},
	{"outage-in-words", "outage", "a write 4 minutes into the outage was not refused"},
	{"node-keys", "two_planes", "what the first wrote"},
	{"node-key-ids", "two_planes", "different keys"},
	{"constant-key-id", "two_planes_rotation", "one other key"},
	{"demands-all", "degraded_member", "healthy and writes"},
	{"silently-degraded", "degraded_member", "has the key id of what it is in"},
	{"stays-degraded", "degraded_member", "under another key"},
	{"demands-all", "degraded_plane", "healthy and writes"},
	{"slow-start", "late_start", "answers after its start"},
	{"stale-socket", "kill_and_restart", "address already in use"},
	{"forgets", "kill_and_restart", "read before"},
	{"stuck-after-stop", "hang", "healthy and writes"},
	{"ignore-activation", "activation", "its socket held"},
	{"ignore-term", "terminate", "did not end"},
	{"refuse-authority", "client_0.29_path", "authority"},
	{"refuse-authority", "client_0.31_path", "authority"},
}

// Faults that the cases of real apiservers notice, the longest first.
var clusterFaults = []fault{
	{"mismatch", "hot_reload", "a write is encrypted"},
	{"forgets", "plugin_killed", "the apiserver is ready"},
	{"stuck-after-stop", "plugin_hangs", "the apiserver is ready"},
	{"wrong-data", "cold_start", "the apiserver is ready"},
	{"forgets", "plugin_absent_at_start", "the Secret is read"},
	{"mismatch", "secrets", "the apiserver is ready"},
	{"constant-key-id", "rotation", "name the new key"},
	{"node-keys", "two_apiservers", "read a Secret through apiserver"},
	{"node-key-ids", "two_apiservers", "read a Secret through apiserver"},
	{"retires-early", "retirement", "before anything was written anew"},
	{"retires-by-one", "retirement", "before each apiserver was restarted"},
}

// Cases of a level: one for each of its faults.
func Cases(level, bin string) ([]check.Case, error) {
	var faults []fault
	var cases []check.Case
	// Beside the faults of real apiservers there is not room for many more.
	parallel := "4"
	switch level {
	case "library":
		faults, parallel = libraryFaults, "24"
		cases = append(cases,
			check.Case{Name: "search", Limit: time.Minute, Run: searchFinds},
			check.Case{Name: "harness_killed", Limit: time.Minute, Run: func(t *check.T) { harnessKilled(t, bin) }},
		)
	case "apiserver":
		faults = clusterFaults
	default:
		return nil, fmt.Errorf("selftest of `library` or of `apiserver`, not %q", level)
	}
	cases = append(cases, check.Case{
		Name: "healthy", Limit: 10 * time.Minute, Run: func(t *check.T) { healthy(t, level, bin, parallel) },
	})
	for number, fault := range faults {
		cases = append(cases, check.Case{
			Name: "fault_" + fault.fault + "_" + fault.noticed, Limit: 4 * time.Minute,
			Run: func(t *check.T) { notices(t, level, bin, number, fault) },
		})
	}
	return cases, nil
}

// harness is this program with the fake plugin, as a process of its own.
func harness(level, bin string, arguments ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	all := append([]string{level, "--plugin", filepath.Join(bin, "fake.json"), "--bin", bin}, arguments...)
	return exec.Command(self, all...), nil
}

// healthy shows that all cases pass without a fault, so that it is the fault that they notice.
func healthy(t *check.T, level, bin, parallel string) {
	command, err := harness(level, bin, "--parallel", parallel)
	t.Must(err, "find this program")
	log := filepath.Join(t.Dir, "harness.log")
	run := process.Command{Name: "harness", Args: command.Args, Env: []string{"TMPDIR=" + t.Dir, "BULLA_TEST_LONG="}, Log: log}
	failed := process.Run(run, 10*time.Minute)
	said, err := os.ReadFile(log)
	t.Must(err, "read what it said")
	passed := 0
	for line := range strings.Lines(string(said)) {
		switch word, _, _ := strings.Cut(line, " "); {
		case word == "ok":
			passed++
		case word == "FAILED", word == "skipped" && !strings.Contains(line, "BULLA_TEST_LONG"):
			t.Failf("%s", line)
		}
	}
	t.Must(failed, "the harness")
	t.Figure("%d cases passed", passed)
	if passed == 0 {
		t.Failf("no case ran")
	}
}

func notices(t *check.T, level, bin string, number int, fault fault) {
	command, err := harness(level, bin, "--case", fault.noticed)
	t.Must(err, "find this program")
	// The path of a socket must be short, and this harness is inside another.
	dir := filepath.Join(filepath.Dir(t.Dir), strconv.Itoa(number))
	t.Must(os.Mkdir(dir, 0o700), "make a directory")
	log := filepath.Join(t.Dir, "harness.log")
	run := process.Command{Name: "harness", Args: command.Args, Env: []string{"TMPDIR=" + dir, "FAKE_FAULTS=" + fault.fault}, Log: log}
	failed := process.Run(run, 4*time.Minute)
	if failed == nil || !strings.Contains(failed.Error(), "exit status 1") {
		t.Failf("the harness ended with %v", failed)
	}
	said, err := os.Open(log)
	t.Must(err, "read what it said")
	defer said.Close()
	for lines := bufio.NewScanner(said); lines.Scan(); {
		why, found := strings.CutPrefix(lines.Text(), "FAILED "+fault.noticed+": ")
		if found && strings.Contains(why, fault.words) {
			return
		}
		if found {
			t.Failf("it was noticed, but not for what it is: %s", why)
		}
	}
	t.Failf("%s did not notice it", fault.noticed)
}

func searchFinds(t *check.T) {
	secret := []byte{0x00, 0xff, 0x10, 0x80, 0x41, 0x42, 0x99, 0x03, 0xfe, 0x7f, 0x5c}
	forms := []string{
		string(secret), "00ff10804142990" + "3fe7f5c", "00FF108041429903FE7F5C",
		"[0 255 16 128 65 66 153 3 254 127 92]", "[0, 255, 16, 128, 65, 66, 153, 3, 254, 127, 92]",
	}
	for _, before := range []string{"", "a", "ab", "abc"} {
		for _, after := range []string{"", "x", "xy"} {
			whole := append(append([]byte(before), secret...), after...)
			forms = append(forms, base64.StdEncoding.EncodeToString(whole), base64.RawURLEncoding.EncodeToString(whole))
		}
	}
	for _, form := range forms {
		if !search.Holds([]byte("before "+form+" after"), secret) {
			t.Failf("it does not find %q", form)
		}
	}
	if search.Holds([]byte("00ff10804142990"+"4fe7f5c"), secret) {
		t.Failf("it finds what is not there")
	}
}

// Nothing of a harness that is killed goes on: not even a plugin that is stopped.
func harnessKilled(t *check.T, bin string) {
	command, err := harness("library", bin, "--case", "hang")
	t.Must(err, "find this program")
	command.Env = append(os.Environ(), "TMPDIR="+t.Dir)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	t.Must(command.Start(), "start the harness")
	t.Within(20*time.Second, "the plugin runs", func() error { return plugins(t.Dir, 1) })
	t.Must(command.Process.Kill(), "kill the harness")
	_ = command.Wait()
	t.Within(5*time.Second, "the plugin is gone", func() error { return plugins(t.Dir, 0) })
}

// plugins counts the processes that were started with a socket in this directory.
func plugins(dir string, want int) error {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	found := 0
	for _, file := range lines {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), "\x00--socket\x00"+dir) {
			found++
		}
	}
	if found != want {
		return fmt.Errorf("%d processes, not %d", found, want)
	}
	return nil
}
