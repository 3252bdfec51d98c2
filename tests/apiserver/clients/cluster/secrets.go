package cluster

import (
	"encoding/base64"
	"fmt"
	"sync"

	"bulla.test/clients/check"
)

const secrets = "/api/v1/namespaces/default/secrets"

func secret(name, content string) Object {
	return Object{
		"apiVersion": "v1", "kind": "Secret", "metadata": Object{"name": name},
		"data": Object{"value": base64.StdEncoding.EncodeToString([]byte(content))},
	}
}

func contentOf(name string) string { return "the content of " + name }

// Create makes a Secret whose content follows from its name.
func (s *Server) Create(name string) error {
	_, err := s.Do("POST", secrets, secret(name, contentOf(name)))
	return err
}

// MustCreate makes Secrets, sixteen at a time.
func (s *Server) MustCreate(names ...string) {
	free := make(chan struct{}, 16)
	failed := make(chan error, len(names))
	var all sync.WaitGroup
	for _, name := range names {
		free <- struct{}{}
		all.Go(func() {
			failed <- s.Create(name)
			<-free
		})
	}
	all.Wait()
	close(failed)
	for err := range failed {
		s.world.t.Must(err, "create a Secret")
	}
}

// Get reads one Secret. It comes from etcd, through the decryption; a list comes from memory.
func (s *Server) Get(name string) (Object, error) {
	read, err := s.Do("GET", secrets+"/"+name, nil)
	if err != nil {
		return nil, err
	}
	if want := base64.StdEncoding.EncodeToString([]byte(contentOf(name))); read.Field("data", "value") != want {
		return nil, fmt.Errorf("%s has another content than was written", name)
	}
	return read, nil
}

// MustGet reads one Secret.
func (s *Server) MustGet(name string) Object {
	read, err := s.Get(name)
	s.world.t.Must(err, "read a Secret through apiserver %d", s.number)
	return read
}

// MustList says how many Secrets there are.
func (s *Server) MustList() int {
	list, err := s.Do("GET", secrets, nil)
	s.world.t.Must(err, "list the Secrets")
	items, _ := list["items"].([]any)
	return len(items)
}

// Rewrite puts back what is read, and says whether that was written.
func (s *Server) Rewrite(t *check.T, name string) bool {
	read := s.MustGet(name)
	written, err := s.Do("PUT", secrets+"/"+name, read)
	t.Must(err, "put back %s", name)
	return written.Field("metadata", "resourceVersion") != read.Field("metadata", "resourceVersion")
}

func names(prefix string, count int) []string {
	names := make([]string, count)
	for index := range names {
		names[index] = fmt.Sprintf("%s-%d", prefix, index)
	}
	return names
}
