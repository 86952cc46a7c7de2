/**
 * A photo -> the aligned 112x112 crop that the model takes.
 *
 * A photo of that size is treated as an aligned crop. In any other photo the largest face is found, with the same two
 * networks as in facelib/alignment/detect.py: BlazeFace (Bazarevsky et al., https://arxiv.org/abs/1907.05047) on
 * squares of the photo, then five points of MediaPipe's face mesh. The similarity that brings these points nearest to
 * the template of the sidecar cuts out the crop. Coordinates start at the edge of the first pixel, as in a canvas; in
 * Python they start at its centre.
 */
export const SIZE = 112; // pixels, of the crop
const MIN_FACE = 20, SEARCH_SIDE = 1024; // pixels: the smallest face, in photos of up to this size
const VIEW = 128; // pixels: side of BlazeFace's input
const SMALLEST_IN_VIEW = VIEW / 8; // pixels: the smallest face that BlazeFace finds
const STEP = 2 / 3; // of a square, at most, from one square to the next
const MIN_LOGIT = 0; // MediaPipe's: a score of 0.5
const MIN_IOU = 0.3; // MediaPipe's: boxes with this intersection over union are averaged, because they show one face
const SAME_FACE = 0.5; // if a larger share of the smaller of two boxes lies in the other box, they show one face
const EYES_AND_MOUTH = [4, 6, 10]; // where their x stand in a row; the nose moves with the pose, so it is left out
const POINTS_VIEW = 192; // pixels: side of the input of the network of the five points
const VIEW_CENTRE = [55.8, 68.2], VIEW_SIDE = 135.2; // the square that it sees, in pixels of the template
const SHIFT_X = 0.5; // pixels of the template: in InsightFace's own crops the landmarks lie this far left of it
const MIRRORED = [1, 0, 2, 4, 3]; // order of the five points in a mirrored face

/** Centres of the 896 anchors, 0 to 1: two at each of 16 x 16 places, then six at each of 8 x 8. */
const ANCHORS = [[16, 2], [8, 6]].flatMap(([side, boxes]) =>
  Array.from({ length: side * side * boxes }, (_, i) => {
    const place = Math.floor(i / boxes);
    return [((place % side) + 0.5) / side, (Math.floor(place / side) + 0.5) / side];
  }));

/** The picture in `blob`, upright. Throws an Error with a one-line message if it is not a picture. */
export async function decode(blob, name) {
  try {
    return await createImageBitmap(blob, { colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
  } catch {
    throw new Error(`A photo is a JPEG, PNG or other image file. '${name}' is none that can be read.`);
  }
}

/**
 * Cuts the largest face out of a photo.
 *
 * @param {ImageBitmap | HTMLVideoElement} photo
 * @param {number} width of the photo, in pixels
 * @param {number} height of the photo, in pixels
 * @param {string} name of the photo, for the error message
 * @param {{boxes: Net, points: Net}} detector
 * @param {number[][]} template of the sidecar: five (x, y) in pixels
 * @returns {Promise<{canvas: HTMLCanvasElement, aligned: boolean}>} the crop, and whether the photo was aligned
 */
export async function cutFace(photo, width, height, name, detector, template) {
  if (width === SIZE && height === SIZE) {
    return { canvas: draw(photo, SIZE, [1, 0, 0, 1, 0, 0]), aligned: false };
  }
  const target = template.map(([x, y]) => [x + 0.5, y + 0.5]);
  const points = await findFace(photo, width, height, detector, target);
  if (!points) {
    throw new Error(
      `A photo shows a face. None was found in '${name}' (${height}x${width}): take one with a larger, upright face.`);
  }
  return { canvas: draw(photo, SIZE, similarity(points, target)), aligned: true };
}

/** RGB values of a canvas, row by row: Uint8Array [SIZE, SIZE, 3]. */
export function pixelsOf(canvas) {
  const { width, height } = canvas;
  const rgba = canvas.getContext('2d', { willReadFrequently: true }).getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0; i < rgb.length; i += 1) {
    rgb[i] = rgba[Math.floor(i / 3) * 4 + (i % 3)];
  }
  return rgb;
}

/** The five points of the largest face, in pixels of the photo; null if there is none. Large faces are found first. */
async function findFace(photo, width, height, detector, target) {
  const whole = Math.max(width, height);
  const minFace = MIN_FACE * Math.max(1, whole / SEARCH_SIDE);
  const smallest = Math.min(whole, (minFace * VIEW) / SMALLEST_IN_VIEW);
  const mouth = [0, 1].map((k) => (target[3][k] + target[4][k]) / 2);
  for (let side = whole; ; side = Math.max(side / 2, smallest)) {
    const found = [];
    for (const x of centres(width, side)) {
      for (const y of centres(height, side)) {
        for (const quarters of side === whole ? [0, 1, 2, 3] : [0]) {
          found.push(...await findBoxes(photo, x, y, VIEW / side, quarters, detector.boxes));
        }
      }
    }
    for (const face of distinct(found).sort((a, b) => area(b.box) - area(a.box))) {
      const about = applyInverse(similarity(face.points, [target[0], target[1], mouth]), target);
      const first = await refine(photo, about, target, detector.points, false);
      const second = first && await refine(photo, first, target, detector.points, true);
      if (second) return second;
    }
    if (side <= smallest) return null;
  }
}

/** Centres of squares of `side` pixels that cover `length` pixels and overlap by a third or more. */
function centres(length, side) {
  const room = length - side;
  if (room <= 0) return [length / 2];
  const steps = Math.ceil(room / (side * STEP));
  return Array.from({ length: steps + 1 }, (_, i) => side / 2 + (room * i) / steps);
}

/**
 * The faces that BlazeFace finds in one square of the photo.
 *
 * A row of its output holds x, y, width, height and six x, y: left and right eye as seen, nose, mouth, ears. They are
 * in pixels of the square; places are relative to the row's anchor. Rows that overlap the best one are averaged,
 * weighted by their scores.
 *
 * @param {number} x of the centre of the square, in pixels of the photo
 * @param {number} y of the centre of the square, in pixels of the photo
 * @param {number} scale pixels of the square per pixel of the photo
 * @param {number} quarters rotations by 90 degrees
 * @returns [{box, points, score}] in pixels of the photo. box: x and y of the centre, width, height; points: left eye,
 *     right eye, mouth
 */
async function findBoxes(photo, x, y, scale, quarters, net) {
  const cos = [1, 0, -1, 0][quarters] * scale, sin = [0, -1, 0, 1][quarters] * scale;
  const transform = [cos, sin, -sin, cos, VIEW / 2 - cos * x + sin * y, VIEW / 2 - sin * x - cos * y];
  const pixels = pixelsOf(draw(photo, VIEW, transform));
  const { regressors, classificators } = await net.run(Float32Array.from(pixels, (value) => value / 127.5 - 1));
  let rows = ANCHORS.flatMap(([left, top], i) => {
    if (classificators[i] < MIN_LOGIT) return [];
    const values = Array.from(regressors.subarray(i * 16, i * 16 + 16),
      (value, k) => (k === 2 || k === 3 ? value : value + (k % 2 ? top : left) * VIEW));
    return [{ values, score: 1 / (1 + Math.exp(-classificators[i])) }];
  }).sort((a, b) => b.score - a.score);
  const faces = [];
  while (rows.length) {
    const best = rows[0];
    const isNear = (row) => row === best || intersectionOverUnion(row.values, best.values) >= MIN_IOU;
    const near = rows.filter(isNear);
    rows = rows.filter((row) => !isNear(row));
    const total = near.reduce((sum, { score }) => sum + score, 0);
    const row = best.values.map((_, k) => near.reduce((sum, { values, score }) => sum + values[k] * score, 0) / total);
    const places = [0, ...EYES_AND_MOUTH].map((k) => row.slice(k, k + 2));
    const [centre, ...points] = applyInverse(transform, places);
    faces.push({ box: [...centre, row[2] / scale, row[3] / scale], points, score: best.score });
  }
  return faces;
}

/** One of the boxes of each face, the best score first. */
function distinct(faces) {
  const kept = [];
  for (const face of faces.sort((a, b) => b.score - a.score)) {
    const isSame = (other) => (
      intersection(other.box, face.box) > SAME_FACE * Math.min(area(other.box), area(face.box)));
    if (!kept.some(isSame)) kept.push(face);
  }
  return kept;
}

/**
 * The five points of the face near `points`, in pixels of the photo; null if there is no face.
 *
 * @param {boolean} mirror whether to average with the points of the mirrored face, and to shift to InsightFace's crops
 */
async function refine(photo, points, target, net, mirror) {
  const scale = POINTS_VIEW / VIEW_SIDE;
  const transform = similarity(points,
    target.map((point) => point.map((value, i) => (value - VIEW_CENTRE[i] + VIEW_SIDE / 2) * scale)));
  const values = Float32Array.from(pixelsOf(draw(photo, POINTS_VIEW, transform)), (value) => value / 255);
  const seen = await net.run(values);
  if (seen.presence[0] < MIN_LOGIT) return null;
  let found = pairs(seen.points);
  if (mirror) {
    const other = pairs((await net.run(mirrored(values, POINTS_VIEW))).points);
    found = found.map(([x, y], i) => {
      const [u, v] = other[MIRRORED[i]];
      return [(x + POINTS_VIEW - u) / 2 + SHIFT_X * scale, (y + v) / 2];
    });
  }
  return applyInverse(transform, found);
}

/** [x, y, x, y, ...] -> [[x, y], [x, y], ...] */
function pairs(values) {
  return Array.from({ length: values.length / 2 }, (_, i) => [values[2 * i], values[2 * i + 1]]);
}

/** RGB values of the mirrored picture, row by row. */
function mirrored(values, width) {
  return values.map((_, i) => {
    const place = Math.floor(i / 3), column = place % width;
    return values[(place - column + width - 1 - column) * 3 + (i % 3)];
  });
}

/** A square canvas with the photo, moved by the six numbers of a canvas transform; black outside the photo. */
function draw(photo, side, transform) {
  const canvas = newCanvas(side);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = 'high';
  context.setTransform(...transform);
  context.drawImage(photo, 0, 0);
  return canvas;
}

/** Intersection over union of two boxes: x and y of the centre, width, height. */
function intersectionOverUnion(a, b) {
  const both = intersection(a, b);
  return both / (area(a) + area(b) - both);
}

/** The area that two boxes share. */
function intersection(a, b) {
  const [width, height] = [0, 1].map((k) => Math.max(0,
    Math.min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - Math.max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2)));
  return width * height;
}

function area(box) {
  return box[2] * box[3];
}

/** The points that a similarity, given as the six numbers of a canvas transform, takes to `points`. */
function applyInverse([a, b, , , e, f], points) {
  const size = a * a + b * b;
  return points.map(([x, y]) => [(a * (x - e) + b * (y - f)) / size, (a * (y - f) - b * (x - e)) / size]);
}

/**
 * The rotation, scale and shift with the least squared distance from `points` to `target`, as the six numbers of a
 * canvas transform.
 * Umeyama's problem (IEEE PAMI 13(4), 1991) in complex numbers: the factor is the quotient of two sums.
 */
export function similarity(points, target) {
  const mean = (list) => [0, 1].map((k) => list.reduce((sum, point) => sum + point[k], 0) / list.length);
  const centre = mean(points), goal = mean(target);
  let spread = 0, real = 0, imaginary = 0;
  points.forEach((point, i) => {
    const x = point[0] - centre[0], y = point[1] - centre[1];
    const u = target[i][0] - goal[0], v = target[i][1] - goal[1];
    spread += x * x + y * y;
    real += x * u + y * v;
    imaginary += x * v - y * u;
  });
  const a = real / spread, b = imaginary / spread;
  return [a, b, -b, a, goal[0] - a * centre[0] + b * centre[1], goal[1] - b * centre[0] - a * centre[1]];
}

function newCanvas(side) {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = side;
  return canvas;
}
