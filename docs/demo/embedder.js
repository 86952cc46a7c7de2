/**
 * Runs .tflite files on the processor with LiteRT.js (WebAssembly), and turns aligned faces into unit vectors.
 */
import { loadAndCompile, loadLiteRt, Tensor } from './runtime/litert.js';

const REBUILD = 'Build the page again: python docs/demo/build.py MODEL.tflite';

/** The response to `url` of this folder. Throws an Error with a one-line message if the file is missing. */
export async function fetchFile(url) {
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) {
    throw new Error(`'${url}' cannot be loaded (${response ? response.status : 'no answer'}). ${REBUILD}`);
  }
  return response;
}

/** The JSON value of the file at `url`; errors as `fetchFile`. */
export async function fetchJson(url) {
  const response = await fetchFile(url);
  try {
    return await response.json();
  } catch (error) {
    throw new Error(`'${url}' is damaged (${error.message}). ${REBUILD}`);
  }
}

/** Loads LiteRT.js. Call it once, before any `Net`. */
export async function startRuntime() {
  try {
    await loadLiteRt(new URL('./runtime/', import.meta.url).href);
  } catch (error) {
    const reason = error instanceof Error ? error.message : 'a file of it is missing'; // if a script fails to load, the error is an event
    throw new Error(`The runtime cannot be loaded: ${reason}. ${REBUILD}`);
  }
}

/** A .tflite with one input. */
export class Net {
  static async open(url) {
    const bytes = new Uint8Array(await (await fetchFile(url)).arrayBuffer());
    try {
      return new Net(await loadAndCompile(bytes, { accelerator: 'wasm' }));
    } catch (error) {
      throw new Error(`LiteRT.js cannot run '${url}' (${error.message ?? error}). ${REBUILD}`);
    }
  }

  constructor(model) {
    this.model = model;
    const { dtype, shape } = model.getInputDetails()[0];
    this.shape = Array.from(shape);
    this.Values = dtype === 'uint8' ? Uint8Array : Float32Array;
  }

  /** Runs the model on numbers in the order of the input's shape. Returns {output name: Float32Array}. */
  async run(values) {
    const input = new Tensor(this.Values.from(values), this.shape);
    try {
      const outputs = await this.model.run(input);
      const found = {};
      for (const [i, { name }] of this.model.getOutputDetails().entries()) {
        found[name] = Float32Array.from(await outputs[i].data());
        outputs[i].delete();
      }
      return found;
    } finally {
      input.delete();
    }
  }
}

/**
 * Unit vector, Float32Array [D], of a face.
 *
 * @param {Uint8Array} face RGB pixels 0..255, row by row, [112, 112, 3]
 * @param {boolean} flip whether to add the vector of the mirrored face, as for the threshold
 */
export async function embed(net, face, flip) {
  const raw = Float64Array.from(Object.values(await net.run(face))[0]);
  if (flip) {
    const mirrored = Object.values(await net.run(mirror(face)))[0];
    raw.forEach((value, i) => { raw[i] = value + mirrored[i]; });
  }
  const norm = Math.hypot(...raw);
  if (!(Number.isFinite(norm) && norm > 0)) {
    throw new Error('The embedding of this picture is zero or not finite. Take another picture.');
  }
  return Float32Array.from(raw, (value) => value / norm);
}

/** Squared L2 distance of two unit vectors, 0 to 4; their cosine is 1 - distance / 2. */
export function squaredDistance(a, b) {
  return a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0);
}

function mirror(face) {
  const width = Math.sqrt(face.length / 3);
  return face.map((_, i) => {
    const row = Math.floor(i / 3 / width), column = Math.floor(i / 3) % width;
    return face[(row * width + width - 1 - column) * 3 + (i % 3)];
  });
}
