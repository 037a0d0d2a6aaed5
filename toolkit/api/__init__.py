"""What `import edgeproof` offers: models, images, builds, attacks and evaluations as objects, in memory or in run folders."""
