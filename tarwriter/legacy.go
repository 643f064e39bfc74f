package tarwriter

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Legacy is the layout that docker save wrote before version 25: a folder for
// each layer with VERSION, json and layer.tar, the images' configs, and
// manifest.json and repositories. Layers lie in it as they are stored,
// compressed or not; all readers look at the content.
//
// A layer's id is the hex SHA-256 of its parent's id, a newline, the layer's
// digest and a newline. A layer that occurs again, under another id, is a link
// to its first occurrence. Images that came with schema 1 manifests have the
// ids of their history, and stand in repositories alone.
func Legacy(images []Image) ([]Member, error) {
	images = sorted(images)
	if err := runnable(images, "legacy"); err != nil {
		return nil, err
	}
	l := legacy{at: make(map[string]int), first: make(map[digest.Digest]string), configs: make(map[digest.Digest]bool), repos: make(repositories)}
	for _, img := range images {
		var err error
		switch {
		case img.Beside: // has no place here
		case img.History != nil:
			l.history(img)
		default:
			err = l.image(img)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", img.RepoTag, err)
		}
	}
	return l.members()
}

// legacy collects the members of a legacy archive.
type legacy struct {
	entries []*dockerImage
	byID    map[digest.Digest]*dockerImage // by manifest
	configs map[digest.Digest]bool
	files   []Member // configs
	folders []legacyLayer
	at      map[string]int // places in folders, by id
	first   map[digest.Digest]string
	repos   repositories
}

// legacyLayer is a folder.
type legacyLayer struct {
	id    string
	json  []byte
	top   bool
	layer ocispec.Descriptor
}

// image adds an image that has a config.
func (l *legacy) image(img Image) error {
	v := img.main()
	e := l.byID[v.Manifest.Digest]
	var parent string
	var ids []string
	for i, layer := range v.Layers {
		id := digest.FromString(parent + "\n" + layer.Digest.String() + "\n").Encoded()
		var config []byte
		top := i == len(v.Layers)-1
		if top {
			config = v.ConfigContent
		}
		text, err := layerJSON(id, parent, config)
		if err != nil {
			return err
		}
		l.folder(legacyLayer{id: id, json: text, top: top, layer: layer})
		ids = append(ids, id)
		parent = id
	}
	if len(ids) > 0 {
		l.repos.add(img.RepoTag, parent)
	}
	if e == nil {
		e = &dockerImage{Config: v.Config.Digest.Encoded() + ".json", Layers: make([]string, 0, len(ids))}
		for _, id := range ids {
			e.Layers = append(e.Layers, id+"/layer.tar")
		}
		if l.byID == nil {
			l.byID = make(map[digest.Digest]*dockerImage)
		}
		l.byID[v.Manifest.Digest] = e
		l.entries = append(l.entries, e)
		if !l.configs[v.Config.Digest] {
			l.configs[v.Config.Digest] = true
			l.files = append(l.files, Member{Name: e.Config, Size: v.Config.Size, Blob: v.Config.Digest})
		}
	}
	if img.RepoTag != "" {
		e.RepoTags = append(e.RepoTags, img.RepoTag)
	}
	return nil
}

// history adds an image that came with a schema 1 manifest.
func (l *legacy) history(img Image) {
	for _, h := range img.History {
		l.folder(legacyLayer{id: h.ID, json: h.JSON, layer: h.Layer})
	}
	l.repos.add(img.RepoTag, img.History[len(img.History)-1].ID)
}

// folder adds a layer's folder, once. One that is the top of an image tells
// more than one that is below.
func (l *legacy) folder(f legacyLayer) {
	if i, ok := l.at[f.id]; ok {
		if f.top && !l.folders[i].top {
			l.folders[i] = f
		}
		return
	}
	l.at[f.id] = len(l.folders)
	l.folders = append(l.folders, f)
}

func (l *legacy) members() ([]Member, error) {
	var out []Member
	if len(l.entries) > 0 {
		manifest, err := jsonMember(dockerManifestFile, l.entries)
		if err != nil {
			return nil, err
		}
		out = append(out, manifest)
	}
	repos, err := l.repos.member()
	if err != nil {
		return nil, err
	}
	if repos.Size > 0 {
		out = append(out, repos)
	}
	out = append(out, l.files...)
	for _, f := range l.folders {
		layer := Member{Name: f.id + "/layer.tar", Size: f.layer.Size, Blob: f.layer.Digest, Layer: true}
		if first, ok := l.first[f.layer.Digest]; ok {
			layer = Member{Name: layer.Name, Link: "../" + first + "/layer.tar"}
		} else {
			l.first[f.layer.Digest] = f.id
		}
		out = append(out, contentMember(f.id+"/VERSION", []byte("1.0")), contentMember(f.id+"/json", f.json), layer)
	}
	return out, nil
}

// layerJSON is a layer's json: for the top one the image's config less what
// came after the format, for others the least that old readers want.
func layerJSON(id, parent string, config []byte) ([]byte, error) {
	fields := map[string]any{"created": "0001-01-01T00:00:00Z", "container_config": emptyContainer}
	if config != nil {
		var raw map[string]json.RawMessage
		if err := json.Unmarshal(config, &raw); err != nil {
			return nil, fmt.Errorf("reading the config: %w", err)
		}
		clear(fields)
		for k, v := range raw {
			if k != "history" && k != "rootfs" {
				fields[k] = v
			}
		}
	}
	fields["id"] = id
	delete(fields, "parent")
	if parent != "" {
		fields["parent"] = parent
	}
	return json.Marshal(fields)
}

// emptyContainer is a container_config that says nothing, with the fields that
// Docker 1.x wrote.
var emptyContainer = json.RawMessage(`{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,` +
	`"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null}`)
