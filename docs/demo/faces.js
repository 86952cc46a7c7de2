/**
 * A photo -> the aligned 112x112 crop that the model eats.
 *
 * A photo of that size is taken for an aligned crop. In any other the largest face is found by BlazeFace (Bazarevsky et
 * al., https://arxiv.org/abs/1907.05047; MediaPipe's short-range weights), and the similarity that takes its eyes and
 * mouth nearest to the template of the sidecar cuts it out, as facelib/alignment/align.py does from five points of MTCNN.
 */
export const SIZE = 112; // pixels, of the crop
const VIEW = 128; // pixels, what the detector sees
const MIN_LOGIT = 0, MIN_OVERLAP = 0.3; // MediaPipe's: a score of 0.5, and what counts as one face
const SECOND_VIEW = 3; // face widths: the square around a face that is looked at again
const EYES_AND_MOUTH = [4, 6, 10]; // where their x stand in a row; its nose is left out, it goes with the pose

/** Centres of the 896 boxes, 0 to 1: two for each of 16 x 16 places, then six for each of 8 x 8. */
const ANCHORS = [[16, 2], [8, 6]].flatMap(([side, boxes]) =>
  Array.from({ length: side * side * boxes }, (_, i) => {
    const place = Math.floor(i / boxes);
    return [((place % side) + 0.5) / side, (Math.floor(place / side) + 0.5) / side];
  }));

/** The picture in `blob`, upright. Throws an Error with one line when it is none. */
export async function decode(blob, name) {
  try {
    return await createImageBitmap(blob, { colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
  } catch {
    throw new Error(`A photo is a JPEG, PNG or other image file. '${name}' is none that can be read.`);
  }
}

/**
 * @param {ImageBitmap | HTMLVideoElement} photo what canvases draw   @param {number} width, height its pixels
 * @param {Net} detector   @param {number[][]} template of the sidecar: five (x, y) in pixels
 * @returns {Promise<{canvas: HTMLCanvasElement, aligned: boolean}>} the crop, and whether a face was looked for
 */
export async function cutFace(photo, width, height, name, detector, template) {
  const canvas = newCanvas(SIZE);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  if (width === SIZE && height === SIZE) {
    context.drawImage(photo, 0, 0);
    return { canvas, aligned: false };
  }
  const whole = { x: width / 2, y: height / 2, side: Math.max(width, height) };
  const first = await look(photo, whole, detector);
  if (!first) {
    throw new Error(
      `A photo shows a face. None was found in '${name}' (${height}x${width}): take one with a larger, upright face.`);
  }
  const around = { x: first.x, y: first.y, side: SECOND_VIEW * Math.max(first.width, first.height) };
  const { points } = (await look(photo, around, detector)) ?? first;
  const mouth = [(template[3][0] + template[4][0]) / 2, (template[3][1] + template[4][1]) / 2];
  const target = [template[0], template[1], mouth].map(([x, y]) => [x + 0.5, y + 0.5]); // a canvas counts from edges
  context.imageSmoothingQuality = 'high';
  context.setTransform(...similarity(points, target));
  context.drawImage(photo, 0, 0);
  return { canvas, aligned: true };
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

/** The largest face in a square of the photo, in the photo's pixels; null when there is none. */
async function look(photo, { x, y, side }, detector) {
  const canvas = newCanvas(VIEW);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.fillRect(0, 0, VIEW, VIEW); // black where the photo ends
  context.imageSmoothingQuality = 'high';
  const scale = VIEW / side, left = x - side / 2, top = y - side / 2;
  context.setTransform(scale, 0, 0, scale, -left * scale, -top * scale);
  context.drawImage(photo, 0, 0);
  const values = Float32Array.from(pixelsOf(canvas), (value) => value / 127.5 - 1);
  const { regressors, classificators } = await detector.run(values);
  const row = largestFace(regressors, classificators);
  return row && {
    x: left + row[0] * side, y: top + row[1] * side, width: row[2] * side, height: row[3] * side,
    points: EYES_AND_MOUTH.map((i) => [left + row[i] * side, top + row[i + 1] * side]),
  };
}

/**
 * Rows are x, y, width, height and six x, y (left and right eye as seen, nose, mouth, ears), in pixels of the view from
 * the box's own centre. Those that overlap the largest face are averaged by their scores.
 */
function largestFace(regressors, logits) {
  const rows = ANCHORS.flatMap(([x, y], i) => {
    if (logits[i] < MIN_LOGIT) return [];
    const row = Array.from(regressors.subarray(i * 16, i * 16 + 16), (value) => value / VIEW);
    const values = row.map((value, k) => (k === 2 || k === 3 ? value : value + (k % 2 ? y : x)));
    return [{ values, score: 1 / (1 + Math.exp(-logits[i])) }];
  });
  if (!rows.length) return null;
  const area = ({ values }) => values[2] * values[3];
  const largest = rows.reduce((best, row) => (area(row) > area(best) ? row : best));
  const near = rows.filter((row) => overlap(row.values, largest.values) >= MIN_OVERLAP);
  const total = near.reduce((sum, { score }) => sum + score, 0);
  return largest.values.map((_, k) => near.reduce((sum, { values, score }) => sum + values[k] * score, 0) / total);
}

/** Intersection over union of two boxes, given as x, y of the centre, width, height. */
function overlap(a, b) {
  const shared = [0, 1].map((k) => Math.max(0,
    Math.min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - Math.max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2)));
  const both = shared[0] * shared[1];
  return both / (a[2] * a[3] + b[2] * b[3] - both);
}

/**
 * The rotation, scale and shift with the least squared distance from `points` to `target`, as a canvas's six numbers.
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
