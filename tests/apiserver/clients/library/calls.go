package library

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	"k8s.io/kms/pkg/service"

	"bulla.test/clients/check"
	"bulla.test/clients/plugin"
	"bulla.test/clients/search"
)

// client is the plain client, with cases' words around it.
type client struct {
	service.Service
	t *check.T
}

func dial(t *check.T, instance *plugin.Instance) *client {
	inner, cancel := instance.Client(plugin.CallTimeout)
	t.Cleanup(cancel)
	return &client{inner, t}
}

func seed() []byte {
	seed := make([]byte, 32)
	_, _ = rand.Read(seed)
	return seed
}

func (c *client) status() *service.StatusResponse {
	status, err := c.Status(context.Background())
	c.t.Must(err, "Status")
	return status
}

func (c *client) encrypt(seed []byte) *service.EncryptResponse {
	answer, err := c.Encrypt(context.Background(), "uid", seed)
	c.t.Must(err, "Encrypt")
	return answer
}

// decrypt asks for the content of what Encrypt answered, which may have been changed since.
func (c *client) decrypt(sealed *service.EncryptResponse) ([]byte, error) {
	request := service.DecryptRequest{Ciphertext: sealed.Ciphertext, KeyID: sealed.KeyID, Annotations: sealed.Annotations}
	return c.Decrypt(context.Background(), "uid", &request)
}

func (c *client) opens(sealed *service.EncryptResponse, seed []byte) {
	opened, err := c.decrypt(sealed)
	c.t.Must(err, "Decrypt")
	if !bytes.Equal(opened, seed) {
		c.t.Failf("Decrypt answered another plaintext than was encrypted")
	}
}

func status(s *suite, t *check.T) {
	plane := s.fleet(t).Started()
	client := dial(t, plane)
	first := client.status()
	for range 20 {
		status := client.status()
		switch {
		case status.Version != kmsv2.KMSAPIVersionv2:
			t.Failf("version is %q", status.Version)
		case status.Healthz != "ok":
			t.Failf("healthz is %q", status.Healthz)
		case *status != *first:
			t.Failf("the status changes by itself: %v, then %v", *first, *status)
		}
		_, err := kmsv2.ValidateKeyID(status.KeyID)
		t.Must(err, "the key id")
	}
}

// What Encrypt answers is judged by the function that the apiserver judges it with.
func encryptLimits(s *suite, t *check.T) {
	client := dial(t, s.fleet(t).Started())
	for range 20 {
		answer := client.encrypt(seed())
		err := kmsv2.ValidateEncryptedObject(&kmstypes.EncryptedObject{
			EncryptedDEKSourceType: kmstypes.EncryptedDEKSourceType_HKDF_SHA256_XNONCE_AES_GCM_SEED,
			EncryptedData:          []byte{0},
			EncryptedDEKSource:     answer.Ciphertext,
			KeyID:                  answer.KeyID,
			Annotations:            answer.Annotations,
		})
		t.Must(err, "the apiserver would discard the answer of Encrypt")
	}
	answer, annotations := client.encrypt(seed()), 0
	for key, value := range answer.Annotations {
		annotations += len(key) + len(value)
	}
	t.Figure("each stored object carries key id %d, ciphertext %d, annotations %d bytes",
		len(answer.KeyID), len(answer.Ciphertext), annotations)
}

func roundTrip(s *suite, t *check.T) {
	client := dial(t, s.fleet(t).Started())
	same := seed()
	ciphertexts := map[string]bool{}
	for range 20 {
		sealed := client.encrypt(same)
		if bytes.Contains(sealed.Ciphertext, same) {
			t.Failf("the ciphertext contains the plaintext")
		}
		ciphertexts[string(sealed.Ciphertext)] = true
		client.opens(sealed, same)
	}
	if len(ciphertexts) != 20 {
		t.Failf("20 encryptions of one plaintext gave %d ciphertexts", len(ciphertexts))
	}
}

// Whatever is changed in what Encrypt answered, Decrypt refuses it, or the plaintext is right: of several members one
// may open what is broken for another. What no member can open, and what is under a key that does not exist, it refuses.
func tampered(s *suite, t *check.T) {
	client := dial(t, s.fleet(t).Started())
	plaintext := seed()
	sealed := client.encrypt(plaintext)
	change := func(what string, mayOpen bool, change func(*service.EncryptResponse)) {
		changed := *sealed
		changed.Ciphertext = slices.Clone(sealed.Ciphertext)
		changed.Annotations = map[string][]byte{}
		for key, value := range sealed.Annotations {
			changed.Annotations[key] = slices.Clone(value)
		}
		change(&changed)
		opened, err := client.decrypt(&changed)
		if err == nil && !bytes.Equal(opened, plaintext) {
			t.Failf("with %s, Decrypt answers a wrong plaintext", what)
		}
		if err == nil && !mayOpen {
			t.Failf("with %s, Decrypt answers as if nothing was changed", what)
		}
	}
	for index := range sealed.Ciphertext {
		change(fmt.Sprintf("bit 0 of byte %d of the ciphertext changed", index), true,
			func(changed *service.EncryptResponse) { changed.Ciphertext[index] ^= 1 })
	}
	change("the ciphertext empty", false, func(changed *service.EncryptResponse) { changed.Ciphertext = nil })
	change("all of the ciphertext changed", false, func(changed *service.EncryptResponse) {
		for index := range changed.Ciphertext {
			changed.Ciphertext[index] ^= 0x55
		}
		for _, value := range changed.Annotations {
			for index := range value {
				value[index] ^= 0x55
			}
		}
	})
	change("an unknown key id", false, func(changed *service.EncryptResponse) { changed.KeyID += "0" })
	change("no key id", false, func(changed *service.EncryptResponse) { changed.KeyID = "" })
	for key := range sealed.Annotations {
		change("annotation "+key+" gone", true, func(changed *service.EncryptResponse) { delete(changed.Annotations, key) })
	}
	client.opens(sealed, plaintext)
}

// Encrypt must name the key that Status named before. Callers hammer both while the key changes: what is asked after an
// answer under the new key must not be answered under the old one.
func keyIDMismatch(s *suite, t *check.T) {
	fleet := s.fleet(t)
	instance := fleet.Started()
	old := instance.KeyID()
	for range 20 {
		if answer := dial(t, instance).encrypt(seed()); answer.KeyID != old {
			t.Failf("Status names %q, and Encrypt %q", old, answer.KeyID)
		}
	}
	if len(s.Rotate) == 0 {
		return
	}
	var watch watch
	var callers sync.WaitGroup
	stop := make(chan struct{})
	for caller := range 8 {
		client, cancel := instance.Client(plugin.CallTimeout)
		t.Cleanup(cancel)
		callers.Go(func() { watch.hammer(client, caller%2 == 0, old, stop) })
	}
	next := fleet.Rotate()
	time.Sleep(time.Second)
	close(stop)
	callers.Wait()
	if watch.wrong != "" {
		t.Failf("%s (from %q to %q)", watch.wrong, old, next)
	}
}

// watch orders the answers of all callers.
type watch struct {
	lock  sync.Mutex
	next  string
	wrong string
}

func (w *watch) seen() string {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.next
}

func (w *watch) hammer(client service.Service, status bool, old string, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		time.Sleep(5 * time.Millisecond)
		before := w.seen()
		id, err := "", error(nil)
		if status {
			var answer *service.StatusResponse
			if answer, err = client.Status(context.Background()); err == nil {
				id = answer.KeyID
			}
		} else {
			var answer *service.EncryptResponse
			// A plugin may refuse to encrypt in the moment of the change; the apiserver then keeps what it has.
			if answer, err = client.Encrypt(context.Background(), "uid", seed()); err != nil {
				continue
			}
			id = answer.KeyID
		}
		w.judge(before, id, old, err)
	}
}

func (w *watch) judge(before, id, old string, err error) {
	w.lock.Lock()
	defer w.lock.Unlock()
	switch {
	case err != nil:
		w.wrong = fmt.Sprintf("Status was refused during the change: %v", err)
	case before != "" && id != before:
		w.wrong = fmt.Sprintf("a call begun after an answer under %q was answered under %q", before, id)
	case id != old && w.next != "" && w.next != id:
		w.wrong = fmt.Sprintf("one change, and two new key ids: %q and %q", w.next, id)
	case id != old:
		w.next = id
	}
}

// No seed may be where a person or a backup could find it: in what the plugin prints, or in the files it keeps.
func leaks(s *suite, t *check.T) {
	fleet := s.fleet(t)
	instance := fleet.Started()
	client := dial(t, instance)
	secret := seed()
	sealed := client.encrypt(secret)
	client.opens(sealed, secret)
	// Refusals are where careless words are said.
	broken := *sealed
	broken.Ciphertext = append(slices.Clone(sealed.Ciphertext), 0)
	_, _ = client.decrypt(&broken)
	broken.Ciphertext, broken.KeyID = sealed.Ciphertext, "unknown"
	_, _ = client.decrypt(&broken)
	instance.Kill()
	instance.Start()
	client.opens(sealed, secret)
	instance.Kill()
	control := filepath.Join(fleet.Shared(), "control")
	t.Must(os.WriteFile(control, []byte("x"+base64.StdEncoding.EncodeToString(append([]byte{0}, secret...))), 0o600), "write the control")
	found, err := search.Files(t.Dir, secret)
	t.Must(err, "search the files")
	if !slices.Contains(found, control) {
		t.Failf("the search does not find what was put there")
	}
	if len(found) > 1 {
		t.Failf("the seed stands in %s", strings.Join(found, ", "))
	}
}
