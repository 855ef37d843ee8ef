"""Video in, clips out: lists of videos, an index of what truly decodes, and one loader per split."""
