package tarwriter

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Legacy is the layout that docker save wrote before version 25: a directory for each layer with
// VERSION, json and layer.tar, the images' configs, and manifest.json and repositories. Layers are
// written as they are stored, compressed or not; all readers detect that by content. It requires
// each image's ConfigContent or History. Referrers are left out; another artifact that is not a
// container image is an ErrNotImage.
//
// A layer's ID is the hex SHA-256 of its parent's ID, a newline, the layer's digest and a newline.
// A layer that occurs again under another ID is a symbolic link to its first occurrence. Images
// with schema 1 manifests have the IDs of their history, and are listed only in repositories.
func Legacy(images []Image) ([]Member, error) {
	images = sorted(images)
	if err := runnable(images, "legacy"); err != nil {
		return nil, err
	}
	l := legacy{at: make(map[string]int), first: make(map[digest.Digest]string), configs: make(map[digest.Digest]bool), repos: make(repositories)}
	for _, img := range images {
		var err error
		switch {
		case img.Referrer: // this format cannot hold it
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
	byID    map[digest.Digest]*dockerImage // by the manifest's digest
	configs map[digest.Digest]bool
	files   []Member // configs
	dirs    []legacyLayer
	at      map[string]int // indexes of dirs, by ID
	first   map[digest.Digest]string
	repos   repositories
}

// legacyLayer is a layer's directory.
type legacyLayer struct {
	id    string
	json  []byte
	top   bool
	layer ocispec.Descriptor
}

// image adds an image that has a config.
func (l *legacy) image(img Image) error {
	m := img.main()
	e := l.byID[m.Descriptor.Digest]
	var parent string
	var ids []string
	for i, layer := range m.Layers {
		id := digest.FromString(parent + "\n" + layer.Digest.String() + "\n").Encoded()
		var config []byte
		top := i == len(m.Layers)-1
		if top {
			config = m.ConfigContent
		}
		text, err := layerJSON(id, parent, config)
		if err != nil {
			return err
		}
		l.dir(legacyLayer{id: id, json: text, top: top, layer: layer})
		ids = append(ids, id)
		parent = id
	}
	if len(ids) > 0 {
		l.repos.add(img.RepoTag, parent)
	}
	if e == nil {
		e = &dockerImage{Config: m.Config.Digest.Encoded() + ".json", Layers: make([]string, 0, len(ids))}
		for _, id := range ids {
			e.Layers = append(e.Layers, id+"/layer.tar")
		}
		if l.byID == nil {
			l.byID = make(map[digest.Digest]*dockerImage)
		}
		l.byID[m.Descriptor.Digest] = e
		l.entries = append(l.entries, e)
		if !l.configs[m.Config.Digest] {
			l.configs[m.Config.Digest] = true
			l.files = append(l.files, Member{Name: e.Config, Size: m.Config.Size, Blob: m.Config.Digest})
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
		l.dir(legacyLayer{id: h.ID, json: h.JSON, layer: h.Layer})
	}
	l.repos.add(img.RepoTag, img.History[len(img.History)-1].ID)
}

// dir adds a layer's directory, once. The top layer of an image replaces the same layer below
// another one, since its json has the image's config.
func (l *legacy) dir(d legacyLayer) {
	if i, ok := l.at[d.id]; ok {
		if d.top && !l.dirs[i].top {
			l.dirs[i] = d
		}
		return
	}
	l.at[d.id] = len(l.dirs)
	l.dirs = append(l.dirs, d)
}

// members are the archive: what lists images, then configs, then the layers' directories.
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
	for _, d := range l.dirs {
		layer := Member{Name: d.id + "/layer.tar", Size: d.layer.Size, Blob: d.layer.Digest, Layer: true}
		if first, ok := l.first[d.layer.Digest]; ok {
			layer = Member{Name: layer.Name, Link: "../" + first + "/layer.tar"}
		} else {
			l.first[d.layer.Digest] = d.id
		}
		out = append(out, contentMember(d.id+"/VERSION", []byte("1.0")), contentMember(d.id+"/json", d.json), layer)
	}
	return out, nil
}

// layerJSON is a layer's json: of the top layer the image's config without the fields that are
// younger than the format, of others the minimum that old readers require.
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

// emptyContainer is a container_config without values, with the fields that Docker 1.x wrote.
var emptyContainer = json.RawMessage(`{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,` +
	`"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null}`)
