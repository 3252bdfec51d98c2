package cluster

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"bulla.test/clients/check"
	"bulla.test/clients/library"
	"bulla.test/clients/plugin"
	"bulla.test/clients/process"
	"bulla.test/clients/search"
)

type suite struct {
	*plugin.Description
	bin string
}

// An apiserver whose /readyz is polled asks the plugin every 20 seconds, and a call may take three.
const probe = 25 * time.Second

// Cases are those of real apiservers, the longest first. bin is the folder of the harness's programs.
func Cases(description *plugin.Description, bin string) []check.Case {
	s := &suite{description, bin}
	orders := plugin.Seconds(2*description.Within.Rotate + 4*description.Within.Start)
	var cases []check.Case
	add := func(name, skip string, run func(*suite, *check.T)) {
		cases = append(cases, check.Case{
			Name: name, Skip: skip, Limit: 3*time.Minute + orders, Run: func(t *check.T) { run(s, t) },
		})
	}
	rotate := library.NotAsked("rotate", len(description.Rotate) > 0)
	retirable := cmp.Or(rotate, library.NotAsked("retirable", len(description.Retirable) > 0))
	if retirable == "" && !process.Apart() {
		retirable = "needs root, for apiservers that have hostnames of their own"
	}
	long := ""
	if os.Getenv("BULLA_TEST_LONG") != "1" {
		long = "takes four to six minutes; runs with BULLA_TEST_LONG=1"
	}
	add("write_window", long, writeWindow)
	add("retirement", retirable, func(s *suite, t *check.T) { retirement(s, t, true) })
	add("retirement_unfinished", retirable, func(s *suite, t *check.T) { retirement(s, t, false) })
	for index := range cases {
		cases[index].Limit = 8 * time.Minute
	}
	add("hot_reload", "", hotReload)
	add("plugin_killed", "", pluginKilled)
	add("plugin_hangs", "", pluginHangs)
	add("two_apiservers", "", twoServers)
	add("cold_start", "", coldStart)
	add("rotation", rotate, rotation)
	add("plugin_absent_at_start", "", pluginAbsentAtStart)
	add("secrets", "", written)
	add("stored_bytes", "", storedBytes)
	return cases
}

func written(s *suite, t *check.T) {
	world := newWorld(s, t)
	server := world.Server(world.Started())
	t.Figure("the first apiserver was ready after %.1f s", server.Start().Seconds())
	all := names("written", 300)
	server.MustCreate(all...)
	for _, name := range all[:50] {
		server.MustGet(name)
	}
	if listed := server.MustList(); listed != len(all) {
		t.Failf("%d Secrets are listed of %d", listed, len(all))
	}
	if server.Rewrite(t, all[0]) {
		t.Failf("a Secret was written again though neither it nor the key had changed")
	}
	if encrypts, decrypts := server.Calls("Encrypt"), server.Calls("Decrypt"); encrypts != 1 || decrypts != 0 {
		t.Failf("%d Secrets took %d Encrypt and %d Decrypt", len(all), encrypts, decrypts)
	}
	size := 0
	values := world.Keys("/registry/secrets/")
	for _, value := range values {
		size += len(value)
	}
	t.Figure("a small Secret takes %d bytes in etcd", size/len(values))
	if len(world.Stored()) != len(all) {
		t.Failf("%d Secrets are stored of %d", len(world.Stored()), len(all))
	}
}

// Nothing of a Secret is in etcd, in the files of etcd, or in what the programs print. Two ConfigMaps, which are not
// encrypted, show that the search finds what is there.
func storedBytes(s *suite, t *check.T) {
	world := newWorld(s, t)
	server := world.Ready(world.Started())
	hidden, control := make([]byte, 24), make([]byte, 24)
	_, _ = rand.Read(hidden)
	_, _ = rand.Read(control)
	for _, name := range names("hidden", 20) {
		_, err := server.Do("POST", secrets, secret(name, "before "+string(hidden)+" after"))
		t.Must(err, "create a Secret")
	}
	for name, data := range map[string]Object{
		"raw":    {"binaryData": Object{"value": base64.StdEncoding.EncodeToString(control)}},
		"base64": {"data": Object{"value": "x" + base64.StdEncoding.EncodeToString(append([]byte("y"), control...))}},
	} {
		data["apiVersion"], data["kind"], data["metadata"] = "v1", "ConfigMap", Object{"name": "control-" + name}
		_, err := server.Do("POST", "/api/v1/namespaces/default/configmaps", data)
		t.Must(err, "create a ConfigMap")
	}
	if len(world.Stored()) != 20 {
		t.Failf("%d Secrets are stored of 20", len(world.Stored()))
	}
	all := world.Keys("")
	var controls []string
	for key, value := range all {
		if search.Holds(value, hidden) {
			t.Failf("a Secret's content stands in %s", key)
		}
		if search.Holds(value, control) {
			controls = append(controls, filepath.Base(key))
		}
	}
	slices.Sort(controls)
	if !slices.Equal(controls, []string{"control-base64", "control-raw"}) {
		t.Failf("the search finds the controls in %v", controls)
	}
	t.Figure("%d values of etcd were searched", len(all))
	files, err := search.Files(world.etcdDir(), control)
	t.Must(err, "search etcd's files")
	if len(files) == 0 {
		t.Failf("the search does not find the control in etcd's files")
	}
	files, err = search.Files(t.Dir, hidden)
	t.Must(err, "search the files")
	if len(files) > 0 {
		t.Failf("a Secret's content stands in %s", strings.Join(files, ", "))
	}
}

// After a rotation new writes are under the new key, reads change nothing, and a rewrite of everything leaves nothing
// under the old key.
func rotation(s *suite, t *check.T) {
	world := newWorld(s, t)
	server := world.Ready(world.Started())
	all := names("old", 20)
	server.MustCreate(all...)
	before := world.Keys("/registry/secrets/")
	old := world.Stored()[all[0]].KeyID
	next := world.Rotate()
	took := t.Within(probe, "a write is under the new key", func() error { return writesUnder(server, next) })
	t.Figure("the apiserver wrote under the new key after %.1f s", took.Seconds())
	for _, name := range all {
		server.MustGet(name)
	}
	after := world.Keys("/registry/secrets/")
	for key, value := range before {
		if !bytes.Equal(after[key], value) {
			t.Failf("a read has rewritten %s", key)
		}
	}
	for name, stored := range world.Stored() {
		if written := server.Rewrite(t, name); written != (stored.KeyID == old) {
			t.Failf("%s was under %q; that putting it back wrote it is %v", name, stored.KeyID, written)
		}
	}
	for name, stored := range world.Stored() {
		if stored.KeyID != next {
			t.Failf("after the rewrite %s is still under %q", name, stored.KeyID)
		}
	}
	for key, value := range world.Keys("") {
		if bytes.Contains(value, []byte(old)) {
			t.Failf("the old key id stands in %s", key)
		}
	}
	seen := fmt.Sprintf(`key_id_hash="sha256:%x"`, sha256.Sum256([]byte(next)))
	if !strings.Contains(server.metrics(), seen) {
		t.Failf("the metrics do not name the hash of the new key id")
	}
	server.Kill()
	server.Start()
	for _, name := range all {
		server.MustGet(name)
	}
}

// writesUnder polls as a kubelet does, writes one Secret, and looks which key it is under.
func writesUnder(server *Server, id string) error {
	time.Sleep(400 * time.Millisecond)
	health := server.Healthy()
	name := fmt.Sprintf("probe-%d", time.Now().UnixNano())
	if err := server.Create(name); err != nil {
		return err
	}
	if stored := server.world.Stored()[name].KeyID; stored != id {
		return fmt.Errorf("it is under %q, not %q (%v)", stored, id, health)
	}
	return nil
}

// outOfService is what an apiserver does without an answer from its plugin: it reads and writes what it knows the seed
// of, and tells by /readyz alone.
func outOfService(t *check.T, server *Server) {
	server.MustGet("before")
	server.MustCreate("during")
	if server.MustList() < 2 {
		t.Failf("a list lacks Secrets")
	}
	took := t.Within(probe, "/readyz fails", func() error {
		if server.Healthy() == nil {
			return errors.New("it is good")
		}
		return nil
	})
	t.Figure("/readyz told of the plugin after %.1f s", took.Seconds())
	for endpoint, expected := range map[string]string{"/readyz": "kms-providers", "/livez": ""} {
		failed, err := server.FailedChecks(endpoint)
		t.Must(err, "ask %s", endpoint)
		if failed != expected {
			t.Failf("%s fails on %q, and should on %q", endpoint, failed, expected)
		}
	}
	server.MustGet("during")
}

func pluginKilled(s *suite, t *check.T) {
	world := newWorld(s, t)
	instance := world.Started()
	server := world.Ready(instance)
	server.MustCreate("before")
	instance.Kill()
	outOfService(t, server)
	instance.Start()
	took := t.Within(30*time.Second, "the apiserver is ready", server.Healthy)
	t.Figure("ready %.1f s after the plugin was back", took.Seconds())
	server.MustCreate("after")
	if decrypts := server.Calls("Decrypt"); decrypts != 0 {
		t.Failf("%d Decrypt for seeds that the apiserver knew", decrypts)
	}
	server.Kill()
	server.Start()
	for _, name := range []string{"before", "during", "after"} {
		server.MustGet(name)
	}
}

func pluginHangs(s *suite, t *check.T) {
	world := newWorld(s, t)
	instance := world.Started()
	server := world.Ready(instance)
	server.MustCreate("before")
	t.Must(instance.Freeze(), "stop the plugin")
	outOfService(t, server)
	instance.Thaw()
	took := t.Within(15*time.Second, "the apiserver is ready", server.Healthy)
	t.Figure("ready %.1f s after the plugin went on", took.Seconds())
	server.MustCreate("after")
	server.MustGet("after")
}

// An apiserver starts before its plugin: what is not encrypted is served, no Secret is read or written, and it mends
// itself when the plugin comes.
func pluginAbsentAtStart(s *suite, t *check.T) {
	world := newWorld(s, t)
	instance := world.Started()
	server := world.Ready(instance)
	server.MustCreate("before")
	stored := world.Keys("/registry/secrets/")
	server.Kill()
	instance.Kill()
	server.Launch()
	_, err := server.Do("POST", "/api/v1/namespaces/default/configmaps", Object{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": Object{"name": "other"},
	})
	t.Must(err, "create a ConfigMap without the plugin")
	_, err = server.Get("before")
	t.Refused(err, "500", "reading a Secret without the plugin")
	t.Refused(server.Create("during"), "500", "creating a Secret without the plugin")
	failed, err := server.FailedChecks("/readyz")
	t.Must(err, "ask /readyz")
	if !strings.Contains(failed, "kms-providers") {
		t.Failf("without the plugin /readyz fails on %q", failed)
	}
	if !maps.EqualFunc(stored, world.Keys("/registry/secrets/"), bytes.Equal) {
		t.Failf("Secrets in etcd have changed without the plugin")
	}
	instance.Start()
	took := t.Within(30*time.Second, "the Secret is read", func() error {
		_, err := server.Get("before")
		return err
	})
	t.Figure("Secrets were read %.1f s after the plugin came", took.Seconds())
	took += t.Within(time.Minute, "the apiserver is ready", server.Healthy)
	t.Figure("ready %.1f s after the plugin came", took.Seconds())
	server.MustCreate("after")
}

// Encryption is turned on while the apiserver runs. What was there stays plain until it is written again.
func hotReload(s *suite, t *check.T) {
	world := newWorld(s, t)
	instance := world.Started()
	server := world.Server(instance)
	server.Configure("{identity: {}}")
	server.Start()
	server.MustCreate("plain")
	plain := func() bool {
		return bytes.Contains(world.Keys("/registry/secrets/")["/registry/secrets/default/plain"], []byte(contentOf("plain")))
	}
	if !plain() {
		t.Failf("the control is not found in etcd")
	}
	server.Configure(kms(instance), "{identity: {}}")
	took := t.Within(90*time.Second, "a write is encrypted", func() error {
		time.Sleep(time.Second)
		name := fmt.Sprintf("probe-%d", time.Now().UnixNano())
		if err := server.Create(name); err != nil {
			return err
		}
		if !bytes.HasPrefix(world.Keys("/registry/secrets/default/" + name)["/registry/secrets/default/"+name], []byte("k8s:enc:kms:v2:")) {
			_, err := server.Do("DELETE", secrets+"/"+name, nil)
			return errors.Join(errors.New("it is not"), err)
		}
		return nil
	})
	t.Figure("encryption was in force %.0f s after the file changed", took.Seconds())
	server.MustGet("plain")
	if !plain() {
		t.Failf("a read has written")
	}
	if !server.Rewrite(t, "plain") || plain() {
		t.Failf("the rewritten Secret is still plain")
	}
	server.MustGet("plain")
	world.Stored()
}

// Two control planes on one etcd, each with a plugin of its own, read what the other writes, also while the key changes.
func twoServers(s *suite, t *check.T) {
	world := newWorld(s, t)
	servers := []*Server{world.Ready(world.Started()), world.Ready(world.Started())}
	round := 0
	cross := func() (ids []string) {
		round++
		for index, server := range servers {
			name := fmt.Sprintf("from-%d-%d", index, round)
			server.MustCreate(name)
			servers[1-index].MustGet(name)
			ids = append(ids, world.Stored()[name].KeyID)
		}
		return ids
	}
	before := cross()
	if before[0] != before[1] {
		t.Failf("the apiservers write under different keys: %q", before)
	}
	if len(s.Rotate) == 0 {
		return
	}
	world.OrderRotation()
	took := t.Within(plugin.Seconds(s.Within.Rotate)+probe, "both write under one other key", func() error {
		health := errors.Join(servers[0].Healthy(), servers[1].Healthy())
		if ids := cross(); ids[0] == before[0] || ids[0] != ids[1] {
			return fmt.Errorf("they write under %q and it was %q (%v)", ids, before[0], health)
		}
		return nil
	})
	t.Figure("both wrote under the new key after %.1f s", took.Seconds())
	for name := range world.Stored() {
		servers[0].Rewrite(t, name)
	}
	for name, stored := range world.Stored() {
		if stored.KeyID == before[0] {
			t.Failf("after the rewrite %s is still under the old key", name)
		}
		servers[1].MustGet(name)
	}
}

// The real write window: three minutes after the last good Status, writes are refused, and reads go on.
func writeWindow(s *suite, t *check.T) {
	world := newWorld(s, t)
	instance := world.Started()
	server := world.Ready(instance)
	server.MustCreate("before")
	instance.Kill()
	var refused error
	took := t.Within(4*time.Minute, "writes are refused", func() error {
		time.Sleep(time.Second)
		if refused = server.Create(fmt.Sprintf("probe-%d", time.Now().UnixNano())); refused == nil {
			return errors.New("one was accepted")
		}
		return nil
	})
	t.Refused(refused, "expired at", "a write after the window")
	t.Figure("writes were refused after %.0f s", took.Seconds())
	if took < 2*time.Minute {
		t.Failf("writes were refused already after %s", took)
	}
	server.MustGet("before")
	instance.Start()
	// After three minutes grpc-go waits up to two before it tries again.
	back := t.Within(150*time.Second, "the apiserver is ready", server.Healthy)
	t.Figure("ready %.0f s after the plugin was back", back.Seconds())
	server.MustCreate("after")
}
