/**
 * The page: two slots with a photo or a camera frame each, the distance of their faces, and the decision by the
 * calibrated threshold.
 */
import { embed, fetchFile, fetchJson, Net, squaredDistance, startRuntime } from './embedder.js';
import { cutFace, decode, pixelsOf } from './faces.js';

const MAX_DISTANCE = 4; // squared L2 of opposite unit vectors
const LATER = ['#slots', '#examples']; // disabled until the model is loaded
const PREVIEW = 640; // pixels, the longer side of a photo on the page
const $ = (selector, within = document) => within.querySelector(selector);

let settings, net, detector;

class Slot {
  constructor(title) {
    this.root = $('#slot').content.cloneNode(true).firstElementChild;
    $('#slots').append(this.root);
    this.title = title;
    this.root.setAttribute('aria-label', title);
    $('h2', this.root).textContent = title;
    this.embedding = null; // Float32Array, unit length
    this.request = 0; // number of the last photo: the result of an earlier one is dropped
    this.stream = null;
    this.listen();
  }

  listen() {
    const at = (selector) => $(selector, this.root);
    const input = at('input');
    input.addEventListener('change', () => {
      if (input.files.length) this.take(input.files[0]);
      input.value = ''; // the same file may be chosen again
    });
    at('.another').addEventListener('click', () => input.click());
    at('.camera').addEventListener('click', () => this.openCamera());
    at('.take').addEventListener('click', () => this.takeFrame());
    at('.cancel').addEventListener('click', () => { this.closeCamera(); at('.camera').focus(); });
    this.root.addEventListener('dragover', () => this.root.classList.add('over'));
    this.root.addEventListener('dragleave', () => this.root.classList.remove('over'));
    this.root.addEventListener('drop', (event) => {
      this.root.classList.remove('over');
      const [file] = event.dataTransfer.files;
      if (file) this.take(file);
      else this.fail('This is not an image file. Drop an image file here.');
    });
  }

  /** A picture file -> preview, crop, embedding. */
  take(file) {
    this.closeCamera();
    return this.run(file.name, async () => {
      const photo = await decode(file, file.name);
      return [photo, photo.width, photo.height];
    });
  }

  takeFrame() {
    const video = $('video', this.root);
    const frame = document.createElement('canvas');
    [frame.width, frame.height] = [video.videoWidth, video.videoHeight];
    frame.getContext('2d').drawImage(video, 0, 0);
    this.closeCamera();
    $('.camera', this.root).focus();
    return this.run('camera', async () => [frame, frame.width, frame.height]);
  }

  async run(name, open) {
    this.request += 1;
    const { request } = this;
    this.clear();
    this.root.setAttribute('aria-busy', 'true');
    showVerdict();
    try {
      const [photo, width, height] = await open();
      if (request !== this.request) return;
      this.preview(photo, width, height);
      await new Promise((done) => { setTimeout(done, 20); }); // lets the browser draw the preview first
      const begin = performance.now();
      const { canvas, aligned, numFaces } = await cutFace(photo, width, height, name, detector, settings.template);
      const middle = performance.now();
      const embedding = await embed(net, pixelsOf(canvas), settings.flip);
      const end = performance.now();
      if (request !== this.request) return;
      this.embedding = embedding;
      this.showCrop(canvas, name, aligned
        ? `${numFaces > 1 ? `${numFaces} faces found, the central one taken` : 'face found'} and aligned in `
          + `${milliseconds(middle - begin)}, embedded in ${milliseconds(end - middle)}`
        : `112×112: used as an aligned crop; embedded in ${milliseconds(end - middle)}`);
    } catch (error) {
      if (request === this.request) this.fail(error.message);
    } finally {
      if (request === this.request) this.root.removeAttribute('aria-busy');
      showVerdict();
    }
  }

  async openCamera() {
    this.request += 1;
    const { request } = this;
    this.clear();
    showVerdict();
    try {
      const stream = await openStream();
      if (request !== this.request) {
        stream.getTracks().forEach((track) => track.stop());
        return;
      }
      this.stream = stream;
      const video = $('video', this.root);
      video.srcObject = stream;
      this.showCamera(true);
      await video.play();
      $('.take', this.root).focus();
    } catch (error) {
      this.closeCamera();
      if (request === this.request) this.fail(error.message);
    }
  }

  closeCamera() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    $('video', this.root).srcObject = null;
    this.showCamera(false);
  }

  showCamera(isOn) {
    for (const selector of ['video', '.take', '.cancel']) $(selector, this.root).hidden = !isOn;
    for (const selector of ['label', '.camera']) $(selector, this.root).hidden = isOn;
    $('.another', this.root).hidden = isOn || $('.photo', this.root).hidden;
  }

  clear() {
    this.embedding = null;
    for (const selector of ['.error', '.seen', '.photo', '.another']) $(selector, this.root).hidden = true;
    $('.invitation', this.root).hidden = false;
  }

  preview(photo, width, height) {
    const canvas = $('.photo', this.root);
    const scale = Math.min(1, PREVIEW / Math.max(width, height));
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    canvas.getContext('2d').drawImage(photo, 0, 0, canvas.width, canvas.height);
    canvas.hidden = $('.another', this.root).hidden = false;
    $('.invitation', this.root).hidden = true;
  }

  showCrop(canvas, name, text) {
    $('.seen canvas', this.root).getContext('2d').drawImage(canvas, 0, 0);
    $('.seen p', this.root).replaceChildren(Object.assign(document.createElement('b'), { textContent: name }), ` ${text}`);
    $('.seen', this.root).hidden = false;
  }

  fail(text) {
    const line = $('.error', this.root);
    line.textContent = text;
    line.hidden = false;
  }
}

async function openStream() {
  if (!navigator.mediaDevices) {
    throw new Error('The browser gives this page no camera. Open the page by https, or on this machine as localhost.');
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'user' }, audio: false });
  } catch (error) {
    const known = {
      NotAllowedError: 'The camera was not allowed. Allow it for this page in the browser, or choose a photo.',
      NotFoundError: 'No camera was found. Connect one, or choose a photo.',
      NotReadableError: 'The camera is in use by another program. Close that, or choose a photo.',
    };
    throw new Error(known[error.name] ?? `The camera cannot be opened (${error.name}). Choose a photo.`);
  }
}

function showVerdict() {
  const [a, b] = slots.map((slot) => slot.embedding);
  const root = $('#verdict'), answer = $('#answer');
  $('#scale').hidden = !(a && b);
  root.classList.remove('is-same', 'is-different');
  if (!a || !b) {
    const isBusy = slots.some((slot) => slot.root.hasAttribute('aria-busy'));
    answer.textContent = isBusy ? 'Comparing …' : a || b ? 'Choose another face' : 'Choose two faces';
    $('#numbers').textContent = 'The distance of their embeddings decides.';
    return;
  }
  const distance = squaredDistance(a, b);
  const isSame = distance <= settings.threshold;
  root.classList.add(isSame ? 'is-same' : 'is-different');
  answer.textContent = isSame ? 'same person' : 'different people';
  $('#numbers').textContent = `distance ${distance.toFixed(4)}, cosine ${(1 - distance / 2).toFixed(4)}`;
  $('.mark').style.left = place(distance);
}

/** Shows what is the same for all photos: threshold, model, examples. */
function showSettings() {
  const [low, high] = settings.interval ?? [settings.threshold, settings.threshold];
  $('.bar .same').style.width = $('.threshold').style.left = place(settings.threshold);
  Object.assign($('.interval').style, { left: place(low), width: place(high - low) });
  $('#threshold').textContent = settings.decision;
  $('#model').textContent = settings.description;
  for (const { label, files } of settings.examples) {
    const button = Object.assign(document.createElement('button'), { type: 'button', textContent: label });
    button.addEventListener('click', () => files.forEach(async (file, i) => {
      try {
        slots[i].take(new File([await (await fetchFile(file)).blob()], 'synthetic face'));
      } catch (error) {
        slots[i].fail(error.message);
      }
    }));
    $('#examples').append(' ', button);
  }
}

async function start() {
  const status = $('#status');
  $('main').classList.add('loading');
  for (const part of LATER) $(part).inert = true;
  status.classList.remove('late');
  status.textContent = 'Loading the model …';
  for (const event of ['dragover', 'drop']) { // a photo dropped beside a slot must not replace the page
    addEventListener(event, (dropped) => dropped.preventDefault());
  }
  try {
    settings = await fetchJson('demo.json');
    await startRuntime();
    net = await Net.open(settings.model);
    detector = { boxes: await Net.open('face_boxes.tflite'), points: await Net.open('face_points.tflite') };
    await embed(net, new Uint8Array(112 * 112 * 3).fill(128), false); // the first run is slow, because it allocates memory
  } catch (error) {
    status.classList.add('error');
    status.textContent = error.message;
    return;
  }
  showSettings();
  status.hidden = true;
  $('main').classList.remove('loading');
  for (const part of LATER) $(part).inert = false;
}

/** Where a distance lies on the scale. */
function place(distance) {
  return `${(100 * distance) / MAX_DISTANCE}%`;
}

function milliseconds(duration) {
  return `${duration.toFixed(duration < 10 ? 1 : 0)} ms`;
}

export const slots = [new Slot('First face'), new Slot('Second face')];
await start();
