"""What datasets are stored as: folders of images, tables of texts, sounds, archives."""
