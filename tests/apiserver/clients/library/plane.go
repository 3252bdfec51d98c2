// Package library proves a plugin with the client library of kube-apiserver: the same state machine, probes, cache and
// write window that a control plane has, in this process and without a cluster.
package library

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	"k8s.io/kms/pkg/service"

	"bulla.test/clients/check"
	"bulla.test/clients/plugin"
)

// Plane is what one kube-apiserver does with its plugin.
type Plane struct {
	t           *check.T
	name        string
	transformer value.Transformer
	health      healthz.HealthChecker
	calls       *calls
	close       context.CancelFunc
}

// calls counts what the state machine asks of the plugin.
type calls struct {
	service.Service
	statuses, encrypts, decrypts atomic.Int64
}

func (c *calls) Status(ctx context.Context) (*service.StatusResponse, error) {
	c.statuses.Add(1)
	return c.Service.Status(ctx)
}

func (c *calls) Encrypt(ctx context.Context, uid string, data []byte) (*service.EncryptResponse, error) {
	c.encrypts.Add(1)
	return c.Service.Encrypt(ctx, uid, data)
}

func (c *calls) Decrypt(ctx context.Context, uid string, request *service.DecryptRequest) ([]byte, error) {
	c.decrypts.Add(1)
	return c.Service.Decrypt(ctx, uid, request)
}

type callsKey struct{}

func init() {
	encryptionconfig.EnvelopeKMSv2ServiceFactory = func(
		ctx context.Context, endpoint, name string, timeout time.Duration,
	) (service.Service, error) {
		inner, err := kmsv2.NewGRPCService(ctx, endpoint, name, timeout)
		counted := ctx.Value(callsKey{}).(*calls)
		counted.Service = inner
		return counted, err
	}
}

const configuration = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: %s, endpoint: %q, timeout: 3s}
`

var planes atomic.Int64

// Open reads an EncryptionConfiguration that names the plugin, as an apiserver does when it starts. With the plugin
// away it takes the three seconds of a call. Planes of one case have one name, which is part of what they store.
func Open(t *check.T, instance *plugin.Instance) *Plane {
	name := strings.ReplaceAll(t.Name, "_", "-")
	number := planes.Add(1)
	file := filepath.Join(t.Dir, fmt.Sprintf("encryption-%d.yaml", number))
	t.Must(os.WriteFile(file, fmt.Appendf(nil, configuration, name, instance.Endpoint()), 0o600), "write the configuration")
	plane := &Plane{t: t, name: name, calls: &calls{}}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), callsKey{}, plane.calls))
	plane.close = cancel
	t.Cleanup(cancel)
	loaded, err := encryptionconfig.LoadEncryptionConfig(ctx, file, false, fmt.Sprintf("plane-%d", number))
	t.Must(err, "load the configuration")
	plane.transformer = loaded.Transformers[schema.GroupResource{Resource: "secrets"}]
	plane.health = loaded.HealthChecks[0]
	return plane
}

// Poll is one look at /readyz: the library asks the plugin at most every 20 seconds while it is well, and every three
// while it is not.
func (p *Plane) Poll() error {
	request, err := http.NewRequest(http.MethodGet, "/readyz", nil)
	if err != nil {
		return err
	}
	return p.health.Check(request)
}

func path(object string) value.Context {
	return value.DefaultContext("/registry/secrets/default/" + object)
}

func content(object string) []byte { return []byte("content of " + object) }

// Stored is what would be in etcd.
type Stored struct {
	object string
	bytes  []byte
	*kmstypes.EncryptedObject
}

// Write makes what is stored of an object.
func (p *Plane) Write(object string) (*Stored, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stored, err := p.transformer.TransformToStorage(ctx, content(object), path(object))
	if err != nil {
		return nil, err
	}
	prefix := []byte("k8s:enc:kms:v2:" + p.name + ":")
	if !bytes.HasPrefix(stored, prefix) || bytes.Contains(stored, content(object)) {
		return nil, fmt.Errorf("what is stored is not encrypted: %.60q", stored)
	}
	parsed := &kmstypes.EncryptedObject{}
	if err := proto.Unmarshal(stored[len(prefix):], parsed); err != nil {
		return nil, err
	}
	return &Stored{object, stored, parsed}, kmsv2.ValidateEncryptedObject(parsed)
}

// Read reads a stored object back, and says whether a rewrite would bring it under the present key.
func (p *Plane) Read(stored *Stored) (stale bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	read, stale, err := p.transformer.TransformFromStorage(ctx, stored.bytes, path(stored.object))
	if err == nil && !bytes.Equal(read, content(stored.object)) {
		err = errors.New("another content was read than was written")
	}
	return stale, err
}

// MustWrite writes, or the case has failed.
func (p *Plane) MustWrite(object string) *Stored {
	stored, err := p.Write(object)
	p.t.Must(err, "write %s", object)
	return stored
}

// MustRead reads, or the case has failed; so it has if the object is stale against expectation, or the other way.
func (p *Plane) MustRead(stored *Stored, stale bool) {
	is, err := p.Read(stored)
	p.t.Must(err, "read %s", stored.object)
	if is != stale {
		p.t.Failf("%s, stored under %q: stale is %v and should be %v", stored.object, stored.KeyID, is, stale)
	}
}

// Healthy waits until /readyz is good and a write is possible, polling as a kubelet does.
func (p *Plane) Healthy(limit time.Duration) time.Duration {
	return p.t.Within(limit, "the plane is healthy and writes", func() error {
		if err := p.Poll(); err != nil {
			return err
		}
		_, err := p.Write("again")
		return err
	})
}

// Unhealthy waits until /readyz is bad.
func (p *Plane) Unhealthy(limit time.Duration) time.Duration {
	return p.t.Within(limit, "the plane is unhealthy", func() error {
		if p.Poll() == nil {
			return errors.New("it is healthy")
		}
		return nil
	})
}

// Follows waits until writes are under another key, and gives the first such object.
func (p *Plane) Follows(old string, limit time.Duration) (*Stored, time.Duration) {
	var stored *Stored
	took := p.t.Within(limit, "the plane writes under another key", func() error {
		health := p.Poll()
		var err error
		if stored, err = p.Write("under-another"); err == nil && stored.KeyID == old {
			err = fmt.Errorf("it writes under %q (health: %v)", old, health)
		}
		return err
	})
	return stored, took
}

// clock is what the library takes for the time in its write window.
type clock struct {
	lock  sync.Mutex
	ahead time.Duration
}

// Clock gives a plane's name a clock that can be put forward.
func (p *Plane) Clock() *clock {
	clock := &clock{}
	p.t.Cleanup(kmsv2.SetNowFuncForTests(p.name, func() time.Time {
		clock.lock.Lock()
		defer clock.lock.Unlock()
		return time.Now().Add(clock.ahead)
	}))
	return clock
}

// Forward puts it forward.
func (c *clock) Forward(by time.Duration) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.ahead += by
}
