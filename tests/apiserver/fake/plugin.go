package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v2"
)

const annotation = "format.fake.bulla.test"

type faults string

type plugin struct {
	v2.UnimplementedKeyManagementServiceServer
	dir      string
	instance string
	faults   faults
	// own is a key that no other process has, for faults.
	own []byte
	// stuck is set by a fault after the process was stopped for a time.
	stuck atomic.Bool

	lock sync.Mutex
	// degraded says that the key without the missing member is the one named.
	degraded bool
	// lagging is what a fault still encrypts with.
	lagging []byte
}

func (p *plugin) fault(name string) bool {
	return strings.Contains(","+string(p.faults)+",", ","+name+",")
}

// misses says whether a member is ordered away from this instance.
func (p *plugin) misses() bool {
	_, err := os.Stat(filepath.Join(p.dir, "degrade"+p.instance))
	return err == nil
}

func newPlugin(dir, instance string, faults faults) (*plugin, error) {
	p := &plugin{dir: dir, instance: instance, faults: faults, own: random(32)}
	keys, err := p.keys()
	if err != nil {
		return nil, err
	}
	p.lagging = keys[len(keys)-1]
	if p.fault("stuck-after-stop") {
		go p.watch()
	}
	return p, nil
}

// watch takes a pause of the clock for the end of the world.
func (p *plugin) watch() {
	for {
		before := time.Now()
		time.Sleep(100 * time.Millisecond)
		if time.Since(before) > 2*time.Second {
			p.stuck.Store(true)
		}
	}
}

func random(length int) []byte {
	bytes := make([]byte, length)
	_, _ = rand.Read(bytes)
	return bytes
}

// addKey appends a key to the file of keys, of which the last encrypts.
func addKey(dir string) error {
	file, err := os.OpenFile(filepath.Join(dir, "keys"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(random(32))
	return err
}

// keys are all keys, the oldest first.
func (p *plugin) keys() ([][]byte, error) {
	text, err := os.ReadFile(filepath.Join(p.dir, "keys"))
	if err != nil {
		return nil, err
	}
	var keys [][]byte
	for ; len(text) >= 32; text = text[32:] {
		keys = append(keys, text[:32])
	}
	return keys, nil
}

func derive(key []byte, purpose string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(purpose))
	return mac.Sum(nil)
}

func keyID(key []byte) string { return "fake." + hex.EncodeToString(derive(key, "id"))[:24] }

// material is what encrypts under a key's name, which a fault makes another than its name says.
func (p *plugin) material(key []byte) []byte {
	if p.fault("node-keys") || p.fault("forgets") {
		return derive(p.own, keyID(key))
	}
	return key
}

// current is the key that encrypts now.
func (p *plugin) current() ([]byte, error) {
	keys, err := p.keys()
	if err != nil {
		return nil, err
	}
	key := keys[len(keys)-1]
	if p.fault("node-key-ids") {
		key = derive(p.own, "node")
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	if !p.misses() && !p.fault("stays-degraded") {
		p.degraded = false
	}
	if p.degraded {
		key = derive(key, "degraded")
	}
	return key, nil
}

func (p *plugin) name(key []byte) string {
	switch {
	case p.fault("constant-key-id"):
		return "fake"
	case p.fault("empty-key-id"):
		return ""
	case p.fault("big-key-id"):
		return strings.Repeat("k", 1025)
	}
	return keyID(key)
}

// Status implements the call.
func (p *plugin) Status(context.Context, *v2.StatusRequest) (*v2.StatusResponse, error) {
	key, err := p.current()
	if err != nil {
		return nil, err
	}
	answer := &v2.StatusResponse{Version: "v2", Healthz: "ok", KeyId: p.name(key)}
	if p.fault("bad-version") {
		answer.Version = "v3"
	}
	if p.fault("unhealthy") || p.fault("outage-in-words") && !backend(p.dir) {
		answer.Healthz = "broken"
	}
	return answer, nil
}

// Encrypt implements the call.
func (p *plugin) Encrypt(_ context.Context, request *v2.EncryptRequest) (*v2.EncryptResponse, error) {
	if p.fault("leak") {
		fmt.Printf("encrypting %v\n", request.Plaintext)
	}
	key, err := p.current()
	if err != nil {
		return nil, err
	}
	if p.misses() && !p.becomesDegraded() {
		return nil, status.Error(codes.Unavailable, "a member is away")
	}
	if p.fault("lagging-encrypt") {
		p.lock.Lock()
		old := p.lagging
		p.lock.Unlock()
		time.AfterFunc(time.Second, func() {
			p.lock.Lock()
			defer p.lock.Unlock()
			p.lagging = key
		})
		key = old
	}
	answer := &v2.EncryptResponse{KeyId: p.name(key), Annotations: map[string][]byte{annotation: {1}}}
	if p.fault("mismatch") {
		answer.KeyId += "x"
	}
	if p.fault("bad-annotation") {
		answer.Annotations = map[string][]byte{"format": {1}}
	}
	switch {
	case p.fault("empty-ciphertext"):
	case p.fault("big-ciphertext"):
		answer.Ciphertext = random(1025)
	default:
		answer.Ciphertext = p.seal(p.material(key), request.Plaintext)
	}
	return answer, nil
}

// becomesDegraded notices the missing member. The call that does so fails, for it belongs to a status that named all
// members; the next one finds the other key named.
func (p *plugin) becomesDegraded() bool {
	if p.fault("demands-all") {
		return false
	}
	if p.fault("silently-degraded") {
		return true
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	was := p.degraded
	p.degraded = true
	return was
}

// Decrypt implements the call.
func (p *plugin) Decrypt(_ context.Context, request *v2.DecryptRequest) (*v2.DecryptResponse, error) {
	keys, err := p.keys()
	if err != nil {
		return nil, err
	}
	if p.fault("node-key-ids") {
		keys = [][]byte{derive(p.own, "node")}
	}
	if p.fault("forgets-old") {
		keys = keys[len(keys)-1:]
	}
	for _, full := range keys {
		for _, key := range [][]byte{full, derive(full, "degraded")} {
			named := request.KeyId == p.name(key) || p.fault("any-key-id") || p.fault("mismatch")
			plaintext, err := p.open(p.material(key), request.Ciphertext)
			if !named || err != nil {
				continue
			}
			if p.fault("wrong-data") {
				plaintext[0] ^= 1
			}
			return &v2.DecryptResponse{Plaintext: plaintext}, nil
		}
	}
	return nil, status.Error(codes.InvalidArgument, "no key of this name opens this")
}

func aead(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	sealed, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return sealed
}

func (p *plugin) seal(key, plaintext []byte) []byte {
	nonce := random(12)
	if p.fault("deterministic") {
		nonce = make([]byte, 12)
	}
	if p.fault("unauthenticated") {
		return append(nonce, stream(key, nonce, plaintext)...)
	}
	return aead(key).Seal(nonce, nonce, plaintext, nil)
}

func (p *plugin) open(key, ciphertext []byte) ([]byte, error) {
	if len(ciphertext) < 12 {
		return nil, fmt.Errorf("too short")
	}
	if p.fault("unauthenticated") {
		return stream(key, ciphertext[:12], ciphertext[12:]), nil
	}
	return aead(key).Open(nil, ciphertext[:12], ciphertext[12:], nil)
}

// stream encrypts and decrypts without a tag.
func stream(key, nonce, text []byte) []byte {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	out := slices.Clone(text)
	cipher.NewCTR(block, append(slices.Clone(nonce), 0, 0, 0, 0)).XORKeyStream(out, out)
	return out
}
