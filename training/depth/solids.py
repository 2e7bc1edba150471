"""What a made scene is written down in: one row of numbers for each solid.

World axes: x right, y up, z ahead, metres. Columns, shapes and textures as named below.
"""

(KIND, CX, CY, CZ, HX, HY, HZ, COS, SIN, TEXTURE) = range(10)
(FIRST, SECOND, SCALE, GLOW, INSIDE, PICTURE, GLOSS, RADIUS) = (10, 13, 16, 17, 18, 19, 20, 21)
BOX, ELLIPSOID, CYLINDER, GABLE = range(4)
(CLOUDY, FACADE, PLANKS, TILES, BRICKS, STRIPES, LEAVES, PLAIN, PHOTO) = range(9)
