/**
 * A photo -> the aligned 112x112 crop that the model takes.
 *
 * A photo of that size is treated as an aligned crop. In any other photo the faces are found by the searches, the two
 * networks and the rule of facelib/alignment: BlazeFace (Bazarevsky et al., https://arxiv.org/abs/1907.05047) on
 * squares of the photo, then five points of MediaPipe's face mesh; of several faces the central one. The similarity that
 * brings these points nearest to the template of the sidecar cuts out the crop. Coordinates start at the edge of the
 * first pixel, as in a canvas; in Python they start at its centre.
 */
export const SIZE = 112; // pixels, of the crop
const MIN_FACE = 20, SEARCH_SIDE = 1024; // pixels: the smallest face, in photos of up to this size
const FINE_SIDE = 2048; // pixels: the same for the searches that follow if no face was found
const NEAR_LIMIT = 1.5; // if no face is so many times the smallest that is found, others beside it may have been missed
const SURE_LOGIT = 10; // of the network of the five points: a face that was taken upside down has less
const VIEW = 128; // pixels: side of BlazeFace's input
const SMALLEST_IN_VIEW = VIEW / 8; // pixels: the smallest face that BlazeFace finds
const STEP = 2 / 3; // of a square, at most, from one square to the next
const MIN_LOGIT = 0; // MediaPipe's: a score of 0.5
const MIN_IOU = 0.3; // MediaPipe's: boxes with this intersection over union are averaged, because they show one face
const SAME_FACE = 0.5; // if a larger share of the smaller of two boxes lies in the other box, they show one face
const EYES_AND_MOUTH = [4, 6, 10]; // where their x stand in a row; the nose moves with the pose, so it is left out
const POINTS_VIEW = 192; // pixels: side of the input of the network of the five points
const VIEW_CENTRE = [55.8, 68.2], VIEW_SIDE = 135.2; // the square that it sees, in pixels of the template
const FACE_SIDE = 90; // pixels of the template: forehead to chin
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
    throw new Error(`A photo must be a JPEG, PNG or other image file. '${name}' cannot be read.`);
  }
}

/**
 * Cuts the central face out of a photo.
 *
 * @param {ImageBitmap | HTMLVideoElement} photo
 * @param {number} width of the photo, in pixels
 * @param {number} height of the photo, in pixels
 * @param {string} name of the photo, for the error message
 * @param {{boxes: Net, points: Net}} detector
 * @param {number[][]} template of the sidecar: five (x, y) in pixels
 * @returns {Promise<{canvas: HTMLCanvasElement, aligned: boolean, numFaces: number}>} the crop, whether the photo was
 *     aligned, and how many faces it shows
 */
export async function cutFace(photo, width, height, name, detector, template) {
  if (width === SIZE && height === SIZE) {
    return { canvas: draw(photo, SIZE, [1, 0, 0, 1, 0, 0]), aligned: false, numFaces: 1 };
  }
  const target = template.map(([x, y]) => [x + 0.5, y + 0.5]);
  const faces = await findFaces(photo, width, height, detector, target);
  if (!faces.length) {
    throw new Error(
      `A photo must show a face. No face was found in '${name}' (${height}x${width}): use a photo with a larger face.`);
  }
  const rank = ({ box }) => area(box) - 2 * ((box[0] - width / 2) ** 2 + (box[1] - height / 2) ** 2);
  const [central] = faces.sort((a, b) => rank(b) - rank(a));
  return { canvas: draw(photo, SIZE, similarity(central.points, target)), aligned: true, numFaces: faces.length };
}

/** RGB values of a canvas, row by row: Uint8Array [height, width, 3]. */
export function pixelsOf(canvas) {
  return pixelsAt(canvas, 0, 0, canvas.width, canvas.height);
}

/** RGB values of a part of a canvas, row by row. */
function pixelsAt(canvas, x, y, width, height) {
  const rgba = canvas.getContext('2d', { willReadFrequently: true }).getImageData(x, y, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0, k = 0; i < rgb.length; i += 3, k += 4) {
    rgb[i] = rgba[k];
    rgb[i + 1] = rgba[k + 1];
    rgb[i + 2] = rgba[k + 2];
  }
  return rgb;
}

/**
 * The faces of a photo: the usual search, then, if it found none for sure, one for smaller and one for rotated faces.
 *
 * @returns [{box, points, score}] in pixels of the photo. box: x and y of the centre, width, height; points: five;
 *     score: of BlazeFace, and 1 more if the network of the five points is sure
 */
async function findFaces(photo, width, height, detector, target) {
  const [usual, fine] = [SEARCH_SIDE, FINE_SIDE].map((side) => MIN_FACE * Math.max(1, Math.max(width, height) / side));
  const faces = [];
  const searches = fine < usual
    ? [[usual, false, NEAR_LIMIT * usual], [fine, false, 0], [usual, true, 0]] : [[usual, false, 0], [usual, true, 0]];
  for (const [minFace, isTurned, enough] of searches) {
    if (Math.min(width, height) < minFace) continue;
    const boxes = await search(photo, width, height, minFace, isTurned, detector.boxes);
    for (const { points, score } of distinct(boxes)) {
      const face = await faceNear(photo, points, target, detector.points);
      if (face) faces.push({ ...face, score: score + face.isSure });
    }
    if (faces.some(({ isSure, box }) => isSure && box[2] >= enough)) break;
  }
  return distinct(faces);
}

/** The face with these eyes and this mouth: its upright square, its five points, and whether they are sure; or null. */
async function faceNear(photo, eyesAndMouth, target, net) {
  const mouth = [0, 1].map((k) => (target[3][k] + target[4][k]) / 2);
  const about = applyInverse(similarity(eyesAndMouth, [target[0], target[1], mouth]), target);
  const first = await refine(photo, about, target, net, false);
  const second = first && await refine(photo, first.points, target, net, true);
  if (!second) return null;
  const { points } = second;
  const transform = similarity(points, target);
  const [centre] = applyInverse(transform, [VIEW_CENTRE.map((value) => value + 0.5)]);
  const side = FACE_SIDE / Math.hypot(transform[0], transform[1]);
  return { box: [...centre, side, side], points, isSure: second.presence >= SURE_LOGIT };
}

/**
 * The boxes of all faces: BlazeFace on squares of the photo, from the whole photo down to 8 times the smallest face.
 *
 * @param {number} minFace side of the smallest face, in pixels of the photo
 * @param {boolean} isTurned whether to search every square after rotation by 90, 180 and 270 degrees; if not, it is
 *     searched upright, and the whole photo in all four ways
 * @returns [{box, points, score}] in pixels of the photo. box: x and y of the centre, width, height; points: left eye,
 *     right eye, mouth
 */
async function search(photo, width, height, minFace, isTurned, net) {
  const whole = Math.max(width, height);
  const smallest = Math.min(whole, (minFace * VIEW) / SMALLEST_IN_VIEW);
  const found = [];
  for (let side = whole; ; side = Math.max(side / 2, smallest)) {
    const { canvas, left, top, scale } = reduced(photo, width, height, VIEW / side);
    const ways = isTurned ? [1, 2, 3] : side === whole ? [0, 1, 2, 3] : [0];
    for (const x of starts(canvas.width)) {
      for (const y of starts(canvas.height)) {
        const pixels = pixelsAt(canvas, x, y, VIEW, VIEW);
        for (const quarters of ways) {
          for (const { size, places, score } of await boxesIn(rotated(pixels, quarters), net)) {
            const [centre, ...points] = places.map((place) => rotatedBack(place, quarters))
              .map(([u, v]) => [(u + x - left) / scale[0], (v + y - top) / scale[1]]);
            found.push({ box: [...centre, size[0] / scale[0], size[1] / scale[1]], points, score });
          }
        }
      }
    }
    if (side <= smallest) return found;
  }
}

/** A copy of the photo at another scale, with black bars where it is smaller than a square of the search. */
function reduced(photo, width, height, factor) {
  const [w, h] = [width, height].map((value) => Math.max(1, Math.round(value * factor)));
  const [left, top] = [w, h].map((value) => Math.floor(Math.max(0, VIEW - value) / 2));
  const canvas = newCanvas(Math.max(VIEW, w), Math.max(VIEW, h));
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(photo, left, top, w, h);
  return { canvas, left, top, scale: [w / width, h / height] };
}

/** Where squares start along a side of `length` pixels, evenly, with an overlap of a third or more. */
function starts(length) {
  const room = length - VIEW;
  const steps = Math.ceil(room / (VIEW * STEP));
  return Array.from({ length: steps + 1 }, (_, i) => (steps ? Math.round((room * i) / steps) : 0));
}

/** RGB values of a square, row by row, after rotations by 90 degrees counter-clockwise. */
function rotated(pixels, quarters) {
  let now = pixels;
  for (let q = 0; q < quarters; q += 1) {
    const before = now;
    now = new Uint8Array(before.length);
    for (let y = 0, k = 0; y < VIEW; y += 1) {
      for (let x = 0; x < VIEW; x += 1, k += 3) {
        const from = (x * VIEW + VIEW - 1 - y) * 3;
        now[k] = before[from];
        now[k + 1] = before[from + 1];
        now[k + 2] = before[from + 2];
      }
    }
  }
  return now;
}

/** The place in a square of a place in the rotated square. */
function rotatedBack(place, quarters) {
  let [x, y] = place;
  for (let q = 0; q < quarters; q += 1) [x, y] = [VIEW - y, x];
  return [x, y];
}

/**
 * The faces that BlazeFace finds in one square.
 *
 * A row of its output holds x, y, width, height and six x, y: left and right eye as seen, nose, mouth, ears. They are
 * in pixels of the square; places are relative to the row's anchor. Rows that overlap the best one are averaged,
 * weighted by their scores.
 *
 * @param {Uint8Array} pixels RGB, row by row
 * @returns [{size, places, score}] in pixels of the square. size: width and height; places: centre, left eye, right
 *     eye, mouth
 */
async function boxesIn(pixels, net) {
  const { regressors, classificators } = await net.run(Float32Array.from(pixels, (value) => value / 127.5 - 1));
  let rows = [];
  ANCHORS.forEach(([left, top], i) => {
    if (classificators[i] < MIN_LOGIT) return;
    const values = Array.from(regressors.subarray(i * 16, i * 16 + 16),
      (value, k) => (k === 2 || k === 3 ? value : value + (k % 2 ? top : left) * VIEW));
    rows.push({ values, score: 1 / (1 + Math.exp(-classificators[i])) });
  });
  rows.sort((a, b) => b.score - a.score);
  const faces = [];
  while (rows.length) {
    const best = rows[0];
    const isNear = (row) => row === best || intersectionOverUnion(row.values, best.values) >= MIN_IOU;
    const near = rows.filter(isNear);
    rows = rows.filter((row) => !isNear(row));
    const total = near.reduce((sum, { score }) => sum + score, 0);
    const row = best.values.map((_, k) => near.reduce((sum, { values, score }) => sum + values[k] * score, 0) / total);
    const places = [0, ...EYES_AND_MOUTH].map((k) => row.slice(k, k + 2));
    faces.push({ size: [row[2], row[3]], places, score: best.score });
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
 * The five points of the face near `points`, in pixels of the photo, and the logit that it is one; null if it is none.
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
  return { points: applyInverse(transform, found), presence: seen.presence[0] };
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
  const canvas = newCanvas(side, side);
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

function newCanvas(width, height) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}
