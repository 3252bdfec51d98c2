// Package cluster proves a plugin with real kube-apiservers on a real etcd.
package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"

	"bulla.test/clients/check"
	"bulla.test/clients/plugin"
	"bulla.test/clients/process"
)

const provider = "kms-under-test"

// How long a start may take until /readyz is good.
const patience = 30 * time.Second

// How many keys are read from etcd at a time: a large Secret has a megabyte.
const page = 2000

// World is an etcd, and a fleet of plugins for the apiservers on it.
type World struct {
	*plugin.Fleet
	t      *check.T
	binary string
	// address is a loopback address that no other case has, so ports are never contended for.
	address string
	etcd    *process.Process
	servers int
}

func newWorld(s *suite, t *check.T) *World {
	world := &World{
		Fleet: plugin.NewFleet(t, s.Description), t: t, binary: filepath.Join(s.bin, "kapiserver"), address: freeAddress(t),
	}
	started, err := process.Start(process.Command{
		Name: "etcd",
		Args: []string{
			world.binary, "etcd", "--data-dir", world.etcdDir(),
			"--client-url", world.etcdURL(), "--peer-url", "http://" + world.address + ":2380",
		},
		Log: filepath.Join(t.Dir, "etcd.log"),
	})
	t.Must(err, "start etcd")
	t.Cleanup(started.Kill)
	world.etcd = started
	t.Within(time.Minute, "etcd is healthy", func() error {
		t.Must(started.Alive(), "etcd")
		answer, err := http.Get(world.etcdURL() + "/health")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", answer.Status)
		}
		return nil
	})
	t.Must(serviceAccountKey(t.Dir), "make the key of service accounts")
	t.Must(os.WriteFile(filepath.Join(t.Dir, "tokens.csv"), []byte("token,admin,admin,system:masters\n"), 0o600), "write the tokens")
	return world
}

func (w *World) etcdDir() string { return filepath.Join(w.t.Dir, "etcd") }

func (w *World) etcdURL() string { return "http://" + w.address + ":2379" }

// freeAddress is one of 127.0.0.0/8, all of which Linux has.
func freeAddress(t *check.T) string {
	for range 100 {
		address := fmt.Sprintf("127.%d.%d.%d", 1+mathrand.IntN(254), mathrand.IntN(256), 1+mathrand.IntN(254))
		if listener, err := net.Listen("tcp", address+":2379"); err == nil {
			listener.Close()
			return address
		}
	}
	t.Failf("no loopback address is free")
	return ""
}

func serviceAccountKey(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{
		"sa.key": {Type: "EC PRIVATE KEY", Bytes: private},
		"sa.pub": {Type: "PUBLIC KEY", Bytes: public},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Server is one kube-apiserver with an EncryptionConfiguration of its own.
type Server struct {
	*process.Process
	world  *World
	number int
	port   int
	client *http.Client
}

// Server adds an apiserver that encrypts with this plugin; it does not run yet.
func (w *World) Server(instance *plugin.Instance) *Server {
	w.servers++
	server := &Server{world: w, number: w.servers, port: 6442 + w.servers}
	server.Configure(kms(instance))
	return server
}

// Ready adds an apiserver and starts it.
func (w *World) Ready(instance *plugin.Instance) *Server {
	server := w.Server(instance)
	server.Start()
	return server
}

func kms(instance *plugin.Instance) string {
	return fmt.Sprintf("{kms: {apiVersion: v2, name: %s, endpoint: %q, timeout: 3s}}", provider, instance.Endpoint())
}

// Configure replaces the EncryptionConfiguration in one step.
func (s *Server) Configure(providers ...string) {
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n" +
		"- {resources: [secrets], providers: [" + strings.Join(providers, ", ") + "]}\n"
	file := s.file("encryption.yaml")
	s.world.t.Must(os.WriteFile(file+".new", []byte(text), 0o600), "write the configuration")
	s.world.t.Must(os.Rename(file+".new", file), "put the configuration in place")
}

func (s *Server) file(name string) string {
	return filepath.Join(s.world.t.Dir, fmt.Sprintf("apiserver-%d-%s", s.number, name))
}

// Launch starts it, and waits only until it serves what is not encrypted.
func (s *Server) Launch() {
	t, dir := s.world.t, s.world.t.Dir
	name := fmt.Sprintf("apiserver-%d", s.number)
	// An apiserver's id, which its metrics show, is made of its hostname.
	var hostname []string
	if process.Apart() {
		hostname = []string{"KAPISERVER_HOSTNAME=" + name}
	}
	started, err := process.Start(process.Command{
		Name: name, Apart: true, Env: hostname,
		Args: []string{
			s.world.binary, "apiserver",
			"--etcd-servers=" + s.world.etcdURL(), "--cert-dir=" + s.file("certificates"),
			"--bind-address=" + s.world.address, "--secure-port=" + strconv.Itoa(s.port),
			// Any address will do; without one it looks for a default route, which a container may not have.
			"--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24",
			"--service-account-issuer=https://kms.invalid", "--service-account-key-file=" + filepath.Join(dir, "sa.pub"),
			"--service-account-signing-key-file=" + filepath.Join(dir, "sa.key"), "--disable-admission-plugins=ServiceAccount",
			"--authorization-mode=RBAC", "--token-auth-file=" + filepath.Join(dir, "tokens.csv"),
			"--encryption-provider-config=" + s.file("encryption.yaml"), "--encryption-provider-config-automatic-reload=true",
		},
		Log: s.file("output.log"),
	})
	t.Must(err, "start an apiserver")
	t.Cleanup(started.Kill)
	s.Process = started
	t.Within(time.Minute, "the apiserver serves namespaces", func() error {
		t.Must(started.Alive(), "the apiserver")
		if err := s.trust(); err != nil {
			return err
		}
		_, err := s.Do("GET", "/api/v1/namespaces/default", nil)
		return err
	})
}

// Start starts it, and waits until it is ready.
func (s *Server) Start() time.Duration { return s.StartWithin(time.Minute) }

// StartWithin starts it, and waits until it is ready, but no longer than this.
func (s *Server) StartWithin(limit time.Duration) time.Duration {
	begin := time.Now()
	s.Launch()
	s.world.t.Within(limit, "the apiserver is ready", s.Healthy)
	return time.Since(begin)
}

// trust takes the certificate that the apiserver made for itself.
func (s *Server) trust() error {
	text, err := os.ReadFile(filepath.Join(s.file("certificates"), "apiserver.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("no certificate yet")
	}
	s.client = &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16,
		},
	}
	return nil
}

// Object is any Kubernetes object.
type Object map[string]any

// Field is a field inside objects inside it.
func (o Object) Field(names ...string) any {
	var at any = map[string]any(o)
	for _, name := range names {
		inner, _ := at.(map[string]any)
		at = inner[name]
	}
	return at
}

// Raw makes a request, and gives the status and body of the answer.
func (s *Server) Raw(method, path string, body any) (int, []byte, error) {
	sent, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	url := fmt.Sprintf("https://%s:%d%s", s.world.address, s.port, path)
	request, err := http.NewRequest(method, url, bytes.NewReader(sent))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer token")
	request.Header.Set("Content-Type", "application/json")
	answer, err := s.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, text, err
}

// Do makes a request that is to succeed.
func (s *Server) Do(method, path string, body any) (Object, error) {
	status, text, err := s.Raw(method, path, body)
	if err != nil {
		return nil, err
	}
	answer := Object{}
	_ = json.Unmarshal(text, &answer)
	if status >= 300 {
		return nil, fmt.Errorf("%s %s: %d: %.300v", method, path, status, answer["message"])
	}
	return answer, nil
}

var failedCheck = regexp.MustCompile(`(?m)^\[-\](\S+) `)

// FailedChecks are the names of what /readyz or /livez finds wrong.
func (s *Server) FailedChecks(endpoint string) (string, error) {
	_, text, err := s.Raw("GET", endpoint+"?verbose", nil)
	var names []string
	for _, match := range failedCheck.FindAllSubmatch(text, -1) {
		names = append(names, string(match[1]))
	}
	return strings.Join(names, " "), err
}

// Healthy is an error unless /readyz is good.
func (s *Server) Healthy() error {
	failed, err := s.FailedChecks("/readyz")
	if err == nil && failed != "" {
		err = fmt.Errorf("/readyz fails on %s", failed)
	}
	return err
}

// Calls is how often this process has asked the plugin for this.
func (s *Server) Calls(method string) int {
	count := 0
	for line := range strings.Lines(s.metrics()) {
		if strings.HasPrefix(line, "apiserver_envelope_encryption_kms_operations_latency_seconds_count{") &&
			strings.Contains(line, "KeyManagementService/"+method+`"`) {
			number, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
			s.world.t.Must(err, "read a metric")
			count += number
		}
	}
	return count
}

func (s *Server) metrics() string {
	_, text, err := s.Raw("GET", "/metrics", nil)
	s.world.t.Must(err, "read the metrics")
	return string(text)
}

// Keys are all keys of etcd under a prefix, with their values, as they were at one moment.
func (w *World) Keys(prefix string) map[string][]byte {
	from, end := []byte(prefix), []byte(prefix)
	if prefix == "" {
		from, end = []byte{0}, []byte{0}
	} else {
		end[len(end)-1]++
	}
	found := map[string][]byte{}
	revision := int64(0)
	for {
		asked, err := json.Marshal(map[string]any{"key": from, "range_end": end, "limit": page, "revision": revision})
		w.t.Must(err, "encode")
		answer, err := http.Post(w.etcdURL()+"/v3/kv/range", "application/json", bytes.NewReader(asked))
		w.t.Must(err, "read etcd")
		var range_ struct {
			Header struct {
				Revision int64 `json:",string"`
			}
			Kvs  []struct{ Key, Value []byte }
			More bool
		}
		err = json.NewDecoder(answer.Body).Decode(&range_)
		answer.Body.Close()
		w.t.Must(err, "read etcd's answer")
		for _, pair := range range_.Kvs {
			found[string(pair.Key)] = pair.Value
		}
		if !range_.More || len(range_.Kvs) == 0 {
			return found
		}
		revision = range_.Header.Revision
		from = append(range_.Kvs[len(range_.Kvs)-1].Key, 0)
	}
}

// Stored are the Secrets in etcd; one that is not encrypted by the plugin fails the case.
func (w *World) Stored() map[string]*kmstypes.EncryptedObject {
	stored := map[string]*kmstypes.EncryptedObject{}
	prefix := []byte("k8s:enc:kms:v2:" + provider + ":")
	for key, value := range w.Keys("/registry/secrets/") {
		if !bytes.HasPrefix(value, prefix) {
			w.t.Failf("%s is stored as %.40q", key, value)
		}
		parsed := &kmstypes.EncryptedObject{}
		w.t.Must(proto.Unmarshal(value[len(prefix):], parsed), "read what is stored as %s", key)
		w.t.Must(kmsv2.ValidateEncryptedObject(parsed), "what is stored as %s", key)
		stored[filepath.Base(key)] = parsed
	}
	return stored
}

// Seeds are how many different seeds the stored Secrets have.
func (w *World) Seeds() int {
	seeds := map[string]bool{}
	for _, stored := range w.Stored() {
		seeds[stored.KeyID+string(stored.EncryptedDEKSource)] = true
	}
	return len(seeds)
}
