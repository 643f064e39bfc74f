// Ggcr reads archives with go-containerregistry, as crane and its relatives do,
// and prints each image's config digest and number of layers after it has read
// and verified all of them.
//
//	ggcr tarball FILE NAME...
//	ggcr layout DIR
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: ggcr tarball FILE NAME... | ggcr layout DIR")
	}
	if os.Args[1] == "layout" {
		index, err := layout.ImageIndexFromPath(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		printIndex(index)
		return
	}
	for _, n := range os.Args[3:] {
		tag, err := name.NewTag(n)
		if err != nil {
			log.Fatal(err)
		}
		img, err := tarball.ImageFromPath(os.Args[2], &tag)
		if err != nil {
			log.Fatal(err)
		}
		print(img)
	}
}

func printIndex(index v1.ImageIndex) {
	m, err := index.IndexManifest()
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range m.Manifests {
		if d.MediaType.IsIndex() {
			below, err := index.ImageIndex(d.Digest)
			if err != nil {
				log.Fatal(err)
			}
			printIndex(below)
			continue
		}
		img, err := index.Image(d.Digest)
		if err != nil {
			log.Fatal(err)
		}
		print(img)
	}
}

func print(img v1.Image) {
	if err := validate.Image(img); err != nil {
		log.Fatal(err)
	}
	config, err := img.ConfigName()
	if err != nil {
		log.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(config, len(layers))
}
