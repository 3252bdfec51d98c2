package cluster

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"bulla.test/clients/check"
)

// An apiserver writes under a key id for so long after it was last told it, so no proof comes sooner after a restart.
const window = 3 * time.Minute

// retirement follows a rotation to the end, and asks at each step whether the old key may be retired. Before everything
// is written anew and each apiserver was restarted it may not. Then it may, and etcd shows that nothing is under it. If
// one Secret was left out it never may, and that Secret is all that differs.
func retirement(s *suite, t *check.T, finished bool) {
	world := newWorld(s, t)
	servers := []*Server{world.Ready(world.Started()), world.Ready(world.Started())}
	all := names("old", 20)
	servers[0].MustCreate(all...)
	old := world.Stored()[all[0]].KeyID
	next := world.Rotate()
	refused := func(servers []*Server, when string) {
		if world.retirable(old, 2, servers...) {
			t.Failf("the old key is said to be retirable %s", when)
		}
	}
	for _, server := range servers {
		t.Within(probe, "a write is under the new key", func() error { return writesUnder(server, next) })
	}
	refused(servers, "before anything was written anew")

	left := all[:1]
	if finished {
		left = nil
	}
	for name := range world.Stored() {
		if !slices.Contains(left, name) {
			servers[0].Rewrite(t, name)
		}
	}
	if under := world.under(old); len(under) != len(left) {
		t.Failf("under the old key are %q in etcd, and should be %q", under, left)
	}
	refused(servers, "before the apiservers were restarted")
	servers[0].Kill()
	servers[0].Start()
	refused(servers, "before each apiserver was restarted")
	servers[1].Kill()
	servers[1].Start()
	begin := time.Now()
	refused(servers, "before the time in which the old key may have been written with was over")

	proven := func() error {
		time.Sleep(2 * time.Second)
		// Who asks for health has the plugin asked, as a kubelet does.
		if err := errors.Join(servers[0].Healthy(), servers[1].Healthy()); err != nil {
			return err
		}
		if time.Since(begin) < window || !world.retirable(old, 2, servers...) {
			return errors.New("it is not retirable")
		}
		return nil
	}
	if !finished {
		for time.Since(begin) < window+probe {
			if proven() == nil {
				t.Failf("the old key is said to be retirable, and %q in etcd are under it", world.under(old))
			}
		}
		servers[0].MustGet(left[0])
		return
	}
	t.Within(window+probe, "the old key is retirable", proven)
	t.Figure("proof that the old key may be retired came %.0f s after the last restart", time.Since(begin).Seconds())
	if under := world.under(old); len(under) > 0 {
		t.Failf("the old key is said to be retirable, and %q in etcd are under it", under)
	}
	refused(servers[:1], "though the metrics of one apiserver were not given")
}

// retirable has the plugin's own tool judge, by what the apiservers' metrics say now.
func (w *World) retirable(old string, apiservers int, servers ...*Server) bool {
	folder, err := os.MkdirTemp(w.t.Dir, "metrics-")
	w.t.Must(err, "make a folder")
	for _, server := range servers {
		file := filepath.Join(folder, fmt.Sprintf("apiserver-%d", server.number))
		w.t.Must(os.WriteFile(file, []byte(server.metrics()), 0o600), "write the metrics")
	}
	return w.Retirable(provider, fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(old))), apiservers, folder)
}

// under are the Secrets that are stored under a key.
func (w *World) under(id string) []string {
	var names []string
	for name, stored := range w.Stored() {
		if stored.KeyID == id {
			names = append(names, name)
		}
	}
	return names
}
