// The page that shows a splat scene: camera, controls, path, colours. Drawing is Spark's (spark.js).
//
// The world has the engine's axes (x right, y down, z forward, metres). A camera of three.js looks
// along -z with y up, so that its rotation is the pose's, turned by half a turn about x.
"use strict";

(() => {
  const L = SplatLibrary;
  const element = (id) => document.getElementById(id);
  const NEAR_M = 0.01; // as the engine's rasteriser
  const FAR_M = 1e5;
  const LEAST_ALPHA = 1 / 255; // what is fainter is not drawn
  const BLUR_PX2 = 0.3; // added to every projected covariance, as the engine does
  const FLIP = new L.Quaternion(1, 0, 0, 0); // between OpenCV's camera axes and three.js'
  const KNOWN = 0; // label of what the input picture sees
  const NEVER = 255; // label of what no camera of the path sees
  const PICTURE_COLOUR = [70, 170, 255];
  const INVENTED_COLOUR = [255, 140, 40];
  const UNSEEN_COLOUR = [150, 150, 150];
  const TINT = 0.6; // share of the label's colour; the rest is the scene's, grey
  const POLL_MS = 1500;
  const KEY_FRAMES = 24; // frames from one key of a drawn path to the next
  const HELD_SPLATS = 12e6; // of a sequence's frames that stay in memory

  let page = JSON.parse(element("page").textContent);
  const canvas = element("view");
  const scene = new L.Scene();
  const camera = new L.PerspectiveCamera();
  const renderer = new L.WebGLRenderer({ canvas, antialias: false, alpha: false });
  renderer.setClearColor(0x000000, 1);
  const spark = new L.SparkRenderer({
    renderer,
    onDirty: wake,
    enableLod: false,
    sortRadial: false,
    accumExtSplats: true,
    minAlpha: LEAST_ALPHA,
    maxStdDev: Math.sqrt(-2 * Math.log(LEAST_ALPHA)), // where an opaque splat is as faint as that
    maxPixelRadius: 4096,
    clipXY: 2, // a large splat is seen though its centre is far outside the view
  });
  scene.add(spark);
  const lines = new L.Scene(); // drawn after the splats, so that nothing hides it

  // ---- what is shown -------------------------------------------------------------------------

  const shown = {
    mesh: null,
    labels: null,
    base: null, // {colours, ranks} of the mesh, read when first asked for
    colours: "scene",
    share: 1,
    frame: 0, // of the path
    own: [], // keys of the path that is drawn by hand
    playing: null, // {poses, fps, began}
    lines: true,
    free: false, // the user has left the path
    mode: "fly",
    speed: 1,
  };
  const lens = { K: null, width: 0, height: 0 };
  const up = new L.Vector3();
  let focus = 1; // metres ahead of the camera: what an orbit turns round

  function bytesOf(id) {
    const node = element(id);
    const text = node.textContent.trim();
    node.textContent = "";
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  }

  async function piped(bytes, stream) {
    return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
  }

  const inflated = (bytes) => piped(bytes, new DecompressionStream("gzip"));
  const deflated = (bytes) => piped(bytes, new CompressionStream("gzip")); // all that Spark reads

  async function fetched(name) {
    const answer = await fetch(name, { cache: "no-store" });
    if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
    return new Uint8Array(await answer.arrayBuffer());
  }

  async function meshOf(bytes) {
    const mesh = new L.SplatMesh({ fileBytes: bytes, fileType: "spz", extSplats: true, editable: false });
    await mesh.initialized;
    return mesh;
  }

  function put(mesh, labels) {
    const before = shown.mesh;
    shown.mesh = mesh;
    shown.labels = labels;
    shown.base = null;
    if (before !== mesh) {
      if (before) scene.remove(before);
      scene.add(mesh);
    }
    recolour();
    return before;
  }

  function say(text) {
    element("message").textContent = text;
    element("message").hidden = !text;
  }

  function status(more = "") {
    const kept = Math.round((shown.mesh?.numSplats ?? 0) * shown.share);
    element("status").textContent =
      `${kept.toLocaleString("en")} splats` +
      (page.cameras ? `, camera ${shown.frame + 1} of ${page.cameras.frames.length}` : "") +
      (page.note ? `, ${page.note}` : "") + more;
  }

  // ---- colours and count -----------------------------------------------------------------------

  function readBase() {
    const n = shown.mesh.numSplats;
    const colours = new Uint8Array(4 * n);
    const weight = new Float32Array(n);
    shown.mesh.forEachSplat((i, centre, scales, rotation, opacity, colour) => {
      const byte = (v) => Math.round(255 * Math.min(Math.max(v, 0), 1));
      colours.set([byte(colour.r), byte(colour.g), byte(colour.b), byte(opacity)], 4 * i);
      const [a, b, c] = [scales.x, scales.y, scales.z];
      weight[i] = opacity * Math.max(a * b, b * c, a * c);
    });
    const ranks = Uint32Array.from({ length: n }, (_, i) => i).sort((a, b) => weight[b] - weight[a]);
    shown.base = { colours, ranks };
  }

  function segmentColour(label) {
    if (label === KNOWN) return PICTURE_COLOUR;
    if (label === NEVER) return UNSEEN_COLOUR;
    const colour = new L.Color().setHSL((0.08 + 0.618034 * (label - 1)) % 1, 0.85, 0.55);
    return [colour.r, colour.g, colour.b].map((v) => Math.round(255 * v));
  }

  function labelColour(label) {
    if (shown.colours === "segments") return segmentColour(label);
    return label === KNOWN ? PICTURE_COLOUR : INVENTED_COLOUR;
  }

  function recolour() {
    const mesh = shown.mesh;
    const tinted = shown.colours !== "scene" && shown.labels;
    if (!tinted && shown.share === 1) {
      mesh.splatRgba = null;
      mesh.maxSh = 3;
    } else {
      if (!shown.base) readBase();
      const rgba = shown.base.colours.slice();
      if (tinted) {
        for (let i = 0; i < mesh.numSplats; i += 1) {
          const grey = (rgba[4 * i] + rgba[4 * i + 1] + rgba[4 * i + 2]) / 3;
          const colour = labelColour(shown.labels[i]);
          for (let k = 0; k < 3; k += 1) rgba[4 * i + k] = TINT * colour[k] + (1 - TINT) * grey;
        }
      }
      const kept = Math.round(shown.share * mesh.numSplats);
      for (const i of shown.base.ranks.subarray(kept)) rgba[4 * i + 3] = 0;
      mesh.splatRgba?.dispose();
      mesh.splatRgba = new L.RgbaArray({ array: rgba });
      mesh.maxSh = tinted ? 0 : 3;
    }
    mesh.updateGenerator();
    mesh.updateVersion();
    drawKey(tinted);
    status();
    wake();
  }

  function drawKey(tinted) {
    const key = element("key");
    key.hidden = !tinted;
    key.replaceChildren();
    if (!tinted) return;
    const rows = [["seen in the input picture", PICTURE_COLOUR]];
    if (shown.colours === "known") rows.push(["invented, or behind what it shows", INVENTED_COLOUR]);
    else {
      page.segments.forEach(([start, stop], k) =>
        rows.push([`segment ${k + 1}: frames ${start + 1} to ${stop}`, segmentColour(k + 1)]));
      rows.push(["seen by no camera", UNSEEN_COLOUR]);
    }
    for (const [text, [r, g, b]] of rows) {
      const row = document.createElement("div");
      const dot = document.createElement("span");
      dot.style.background = `rgb(${r}, ${g}, ${b})`;
      row.append(dot, text);
      key.append(row);
    }
  }

  // ---- the camera --------------------------------------------------------------------------------

  function setPose(pose) {
    camera.position.set(...pose.position);
    camera.quaternion.set(...pose.rotation).multiply(FLIP);
    lens.K = pose.K;
    wake();
  }

  function pose() {
    const turned = camera.quaternion.clone().multiply(FLIP);
    return { position: camera.position.toArray(), rotation: turned.toArray(), K: { ...lens.K } };
  }

  // The projection of K for a picture of width x height, fitted whole into the canvas.
  function project() {
    const [w, h] = [canvas.width, canvas.height];
    const scale = Math.min(w / lens.width, h / lens.height);
    const { fx, fy, cx, cy } = lens.K;
    const left = (w - lens.width * scale) / 2 + cx * scale;
    const top = (h - lens.height * scale) / 2 + cy * scale;
    const [a, b] = [(FAR_M + NEAR_M) / (NEAR_M - FAR_M), (2 * FAR_M * NEAR_M) / (NEAR_M - FAR_M)];
    camera.near = NEAR_M;
    camera.far = FAR_M;
    camera.projectionMatrix.set(
      (2 * fx * scale) / w, 0, 1 - (2 * left) / w, 0,
      0, (2 * fy * scale) / h, (2 * top) / h - 1, 0,
      0, 0, a, b,
      0, 0, -1, 0,
    );
    camera.projectionMatrixInverse.copy(camera.projectionMatrix).invert();
    camera.updateMatrixWorld();
  }

  function axis(x, y, z) {
    return new L.Vector3(x, y, z).applyQuaternion(camera.quaternion);
  }

  // Turn the camera upright to look along `forward`; what looks straight up or down stays.
  function lookAlong(forward) {
    const right = forward.clone().cross(up);
    if (right.length() < 1e-3) return false;
    right.normalize();
    const top = right.clone().cross(forward);
    const back = forward.clone().negate();
    camera.quaternion.setFromRotationMatrix(new L.Matrix4().makeBasis(right, top, back));
    return true;
  }

  function turned(yaw, pitch) {
    const forward = axis(0, 0, -1).normalize();
    const most = Math.PI / 2 - 0.02;
    const height = Math.asin(Math.min(Math.max(forward.dot(up), -1), 1));
    const wanted = Math.min(Math.max(height + pitch, -most), most);
    const level = forward.clone().addScaledVector(up, -forward.dot(up));
    if (level.length() < 1e-6) level.copy(axis(0, 1, 0)).addScaledVector(up, -axis(0, 1, 0).dot(up));
    level.normalize().applyQuaternion(new L.Quaternion().setFromAxisAngle(up, yaw));
    return level.multiplyScalar(Math.cos(wanted)).addScaledVector(up, Math.sin(wanted));
  }

  function leave() {
    shown.playing = null;
    shown.free = true;
    element("play").textContent = "Play";
    element("preview").textContent = "Play mine";
  }

  function look(dx, dy) {
    leave();
    const perPixel = canvas.height / canvas.clientHeight / focalOnCanvas();
    lookAlong(turned(dx * perPixel, dy * perPixel));
    wake();
  }

  function orbit(dx, dy) {
    leave();
    const target = camera.position.clone().addScaledVector(axis(0, 0, -1), focus);
    const forward = turned((-dx * Math.PI) / canvas.clientWidth, (-dy * Math.PI) / canvas.clientHeight);
    lookAlong(forward);
    camera.position.copy(target).addScaledVector(forward, -focus);
    wake();
  }

  function focalOnCanvas() {
    return lens.K.fy * Math.min(canvas.width / lens.width, canvas.height / lens.height);
  }

  function pan(dx, dy) {
    leave();
    const metres = (focus * canvas.height) / canvas.clientHeight / focalOnCanvas();
    camera.position.addScaledVector(axis(1, 0, 0), -dx * metres);
    camera.position.addScaledVector(axis(0, 1, 0), dy * metres);
    wake();
  }

  function nearer(steps) {
    leave();
    const move = focus * (1 - 0.9 ** steps);
    camera.position.addScaledVector(axis(0, 0, -1), move);
    if (shown.mode === "orbit") focus -= move;
    wake();
  }

  const pressed = new Set();
  const MOVES = {
    KeyW: [0, 0, -1], ArrowUp: [0, 0, -1], KeyS: [0, 0, 1], ArrowDown: [0, 0, 1],
    KeyA: [-1, 0, 0], ArrowLeft: [-1, 0, 0], KeyD: [1, 0, 0], ArrowRight: [1, 0, 0],
    KeyE: [0, 1, 0], KeyQ: [0, -1, 0],
  };

  function fly(seconds) {
    const move = new L.Vector3();
    for (const code of pressed) if (MOVES[code]) move.add(new L.Vector3(...MOVES[code]));
    if (!move.length()) return;
    leave();
    const fast = pressed.has("ShiftLeft") || pressed.has("ShiftRight") ? 5 : 1;
    move.normalize().applyQuaternion(camera.quaternion);
    camera.position.addScaledVector(move, seconds * fast * shown.speed * flightSpeed);
    wake();
  }

  let flightSpeed = 1; // metres a second at speed 1

  // ---- the path ------------------------------------------------------------------------------------

  function show(index) {
    const frames = page.cameras.frames;
    shown.frame = Math.min(Math.max(index, 0), frames.length - 1);
    setPose(Paths.poseOf(frames[shown.frame]));
    focus = page.focus_m;
    element("frame").value = shown.frame;
    status();
  }

  function home() {
    leave();
    shown.free = false;
    if (page.cameras) return show(0);
    setPose(Paths.poseOf(page.first));
    focus = page.focus_m;
  }

  function play(poses, fps, button) {
    const playing = shown.playing;
    leave();
    if (playing && playing.button === button) return; // the button that began it ends it
    shown.free = false;
    shown.playing = { poses, fps, button, began: performance.now() };
    element(button).textContent = "Stop";
    wake();
  }

  function playPath() {
    if (frames.count > 1) return frames.toggle();
    if (page.cameras) play(page.cameras.frames.map(Paths.poseOf), page.cameras.fps, "play");
  }

  function goOnPlaying() {
    const { poses, fps, began, button } = shown.playing;
    const i = Math.floor(((performance.now() - began) / 1000) * fps);
    if (i >= poses.length) return leave();
    if (button === "play") show(i);
    else setPose(poses[i]);
    wake();
  }

  function ownPath() {
    return Paths.smooth(shown.own, (shown.own.length - 1) * KEY_FRAMES + 1);
  }

  // The first key of a path is the picture's own view: from there a job begins.
  function addKey() {
    if (!shown.own.length && page.cameras && shown.free) {
      shown.own.push(Paths.poseOf(page.cameras.frames[0]));
    }
    shown.own.push(pose());
    ownChanged();
  }

  function dropKey() {
    shown.own.pop();
    ownChanged();
  }

  function ownChanged() {
    element("drop").disabled = !shown.own.length;
    element("preview").disabled = element("save").disabled = shown.own.length < 2;
    shown.lines = true;
    drawLines();
  }

  function savePath() {
    const fps = page.cameras?.fps ?? 24;
    const text = Paths.fileOf(ownPath(), lens.width, lens.height, fps);
    keep(new Blob([text], { type: "application/json" }), "camera_path.json");
  }

  function keep(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  function frustum(p, size) {
    const { position, rotation, K } = p;
    const turn = new L.Quaternion(...rotation);
    const at = (u, v) =>
      new L.Vector3(((u - K.cx) / K.fx) * size, ((v - K.cy) / K.fy) * size, size)
        .applyQuaternion(turn).add(new L.Vector3(...position)).toArray();
    const corners = [[0, 0], [lens.width, 0], [lens.width, lens.height], [0, lens.height]];
    const c = corners.map(([u, v]) => at(u, v));
    return [0, 1, 2, 3].flatMap((k) => [position, c[k], c[k], c[(k + 1) % 4]]);
  }

  function drawLines() {
    lines.clear();
    element("cameras").setAttribute("aria-pressed", shown.lines);
    const put = (points, colour) => {
      const geometry = new L.BufferGeometry();
      geometry.setAttribute("position", new L.Float32BufferAttribute(points.flat(), 3));
      const material = new L.LineBasicMaterial({ color: colour, depthTest: false, transparent: true });
      const made = new L.LineSegments(geometry, material);
      made.frustumCulled = false;
      lines.add(made);
    };
    const path = (poses, every, colour) => {
      const along = poses.slice(1).flatMap((p, k) => [poses[k].position, p.position]);
      const size = 0.025 * page.focus_m;
      const drawn = poses.filter((_, k) => k % every === 0 || k === poses.length - 1);
      put([...along, ...drawn.flatMap((p) => frustum(p, size))], colour);
    };
    if (shown.lines) {
      const poses = page.cameras?.frames.map(Paths.poseOf) ?? [];
      if (poses.length) path(poses, Math.max(1, Math.round(poses.length / 12)), 0x66ccff);
      if (shown.own.length) path(ownPath(), KEY_FRAMES, 0xffb050);
    }
    wake();
  }

  // ---- frames of a sequence ------------------------------------------------------------------------

  const frames = {
    count: page.sequence?.frames ?? 1,
    fps: page.sequence?.fps ?? 24,
    at: 0,
    meshes: new Map(), // number -> promise of a mesh
    began: null,

    get(i) {
      if (!this.meshes.has(i)) this.meshes.set(i, fetched(`scene/${i}.spz`).then(meshOf));
      return this.meshes.get(i);
    },

    // The frames that come next are read ahead; those farthest behind go when there are too many.
    async show(i) {
      const mesh = await this.get(i);
      if (this.wanted !== i) return;
      this.at = i;
      put(mesh, null);
      element("frame").value = i;
      const most = Math.max(3, Math.floor(HELD_SPLATS / Math.max(mesh.numSplats, 1)));
      for (let k = 1; k < Math.min(8, most, this.count); k += 1) this.get((i + k) % this.count);
      const behind = [...this.meshes.keys()].sort((a, b) => this.ahead(b) - this.ahead(a));
      for (const old of behind.slice(0, Math.max(0, this.meshes.size - most))) {
        const gone = this.meshes.get(old);
        this.meshes.delete(old);
        gone.then((m) => m !== shown.mesh && m.dispose());
      }
      status(`, frame ${i + 1} of ${this.count}`);
    },

    ahead(i) {
      return (i - this.at + this.count) % this.count;
    },

    want(i) {
      if (this.wanted === i) return;
      this.wanted = i;
      this.show(i).catch((error) => say(`A frame could not be loaded: ${error.message}`));
    },

    toggle() {
      this.began = this.began === null ? performance.now() - (this.at / this.fps) * 1000 : null;
      element("play").textContent = this.began === null ? "Play" : "Stop";
      wake();
    },

    goOn() {
      this.want(Math.floor(((performance.now() - this.began) / 1000) * this.fps) % this.count);
      wake();
    },
  };

  // ---- drawing -------------------------------------------------------------------------------------

  let awake = false;
  let settling = 0; // who waits for a sorted picture; they draw it themselves
  let last = 0;
  let drawn = 0;

  function wake() {
    if (awake || !canvas) return;
    awake = true;
    requestAnimationFrame(tick);
  }

  function tick(now) {
    awake = false;
    const seconds = Math.min((now - last) / 1000, 0.1);
    last = now;
    if (shown.playing) goOnPlaying();
    if (frames.began !== null) frames.goOn();
    fly(seconds);
    if (!settling) draw();
    if (pressed.size) wake();
  }

  function draw() {
    if (!lens.K) return;
    const [w, h] = [canvas.clientWidth, canvas.clientHeight].map((v) =>
      Math.max(1, Math.round(v * window.devicePixelRatio)));
    if (canvas.width !== w || canvas.height !== h) {
      renderer.setPixelRatio(1);
      renderer.setSize(w, h, false);
    }
    project();
    renderer.autoClear = true;
    renderer.render(scene, camera);
    if (shown.free && lines.children.length) {
      renderer.autoClear = false;
      renderer.render(lines, camera);
    }
    drawn += 1;
  }

  // Draw until the splats are sorted for the camera that is set.
  async function settled() {
    settling += 1;
    try {
      for (;;) {
        draw();
        if (!spark.sorting && !spark.sortDirty) return; // nothing was waited for since it was drawn
        while (spark.sorting) await new Promise((resolve) => setTimeout(resolve, 5));
      }
    } finally {
      settling -= 1;
    }
  }

  async function screenshot() {
    await settled();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    keep(blob, "view.png");
  }

  // ---- hands ----------------------------------------------------------------------------------------

  function press(id, on) {
    element(id).setAttribute("aria-pressed", on);
  }

  function mode(name) {
    shown.mode = name;
    press("fly", name === "fly");
    press("orbit", name === "orbit");
  }

  function toggled(id) {
    const on = element(id).getAttribute("aria-pressed") !== "true";
    press(id, on);
    return on;
  }

  function choose(colours) {
    if (element("colours").disabled) return;
    shown.colours = colours;
    element("colours").value = colours;
    recolour();
  }

  // The other variants of a job are pages beside this one; the view goes along.
  function listVariants() {
    const { names, now, home: path } = page.variants;
    for (const name of names) element("variants").append(new Option(name, name, false, name === now));
    element("variants").hidden = names.length < 2;
    element("variants").addEventListener("change", (event) => {
      const view = JSON.stringify(shown.free || !page.cameras ? pose() : shown.frame);
      location.assign(`${path}${event.target.value}/#${encodeURIComponent(view)}`);
    });
  }

  // The view that the page of another variant had: "none", "taken" or "damaged".
  function takeOverView() {
    if (!page.variants || location.hash.length < 2) return "none";
    const view = Paths.viewOf(location.hash.slice(1));
    if (view === null || (typeof view === "number" && !page.cameras)) return "damaged";
    leave();
    if (typeof view === "number") {
      shown.free = false;
      show(view);
    } else setPose(view);
    return "taken";
  }

  const ACTIONS = {
    Space: playPath,
    Home: home,
    KeyC: screenshot,
    KeyK: addKey,
    Backspace: dropKey,
    KeyP: () => element("cameras").click(),
    KeyI: () => element("pictured").click(),
    KeyH: () => element("helped").click(),
    Digit1: () => choose("scene"),
    Digit2: () => choose("known"),
    Digit3: () => choose("segments"),
  };

  function listen() {
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (["SELECT", "INPUT"].includes(event.target.tagName)) return;
      if (event.target.tagName === "BUTTON" && ["Space", "Enter"].includes(event.code)) return;
      const action = ACTIONS[event.code];
      if (!action && !MOVES[event.code] && !event.code.startsWith("Shift")) return;
      event.preventDefault();
      if (action && !event.repeat) action();
      else pressed.add(event.code);
      wake();
    });
    addEventListener("keyup", (event) => pressed.delete(event.code));
    addEventListener("blur", () => pressed.clear());
    addEventListener("resize", wake);
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      const [dx, dy] = [event.movementX, event.movementY];
      if (event.buttons & 6 || event.shiftKey) pan(dx, dy);
      else if (shown.mode === "orbit") orbit(dx, dy);
      else look(dx, dy);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const steps = -Math.sign(event.deltaY);
      if (pressed.size) shown.speed *= 1.25 ** steps;
      else nearer(steps);
    }, { passive: false });
    const clicks = {
      fly: () => mode("fly"),
      orbit: () => mode("orbit"),
      home,
      play: playPath,
      shoot: screenshot,
      add: addKey,
      drop: dropKey,
      preview: () => play(ownPath(), page.cameras?.fps ?? 24, "preview"),
      save: savePath,
      cameras: () => {
        shown.lines = toggled("cameras");
        drawLines();
      },
      pictured: () => (element("beside").hidden = !toggled("pictured")),
      helped: () => (element("help").hidden = !toggled("helped")),
    };
    for (const [id, action] of Object.entries(clicks)) element(id).addEventListener("click", action);
    element("colours").addEventListener("change", (event) => choose(event.target.value));
    element("frame").addEventListener("input", (event) => {
      if (frames.count > 1) return frames.want(Number(event.target.value));
      leave();
      shown.free = false;
      show(Number(event.target.value));
    });
    element("count").addEventListener("input", (event) => {
      shown.share = Number(event.target.value) / 100;
      recolour();
    });
  }

  // ---- beginning -------------------------------------------------------------------------------------

  // Take over what the page says of its scene: cameras, picture, labels.
  function describe() {
    const { cameras } = page;
    up.set(...page.up).normalize();
    lens.width = page.width;
    lens.height = page.height;
    spark.preBlurAmount = page.antialiased ? 0 : BLUR_PX2;
    spark.blurAmount = page.antialiased ? BLUR_PX2 : 0;
    flightSpeed = page.focus_m / 2;
    const last = (frames.count > 1 ? frames.count : cameras?.frames.length ?? 1) - 1;
    element("frame").max = last;
    element("frame").disabled = element("play").disabled = last < 1;
    element("cameras").disabled = !cameras;
    element("pictured").disabled = !page.picture;
    if (page.picture) element("picture").src = page.picture;
    element("colours").disabled = !page.labelled;
    drawLines();
  }

  async function load() {
    const embedded = !page.served;
    const bytes = embedded
      ? await deflated(Packing.unpacked(await inflated(bytesOf("splats"))))
      : await fetched(`scene/0.spz?v=${page.version}`);
    let labels = null;
    if (page.labelled) {
      labels = await inflated(embedded ? bytesOf("labels") : await fetched(`labels?v=${page.version}`));
    }
    const mesh = await meshOf(bytes);
    describe();
    const before = put(mesh, labels);
    if (before) before.dispose();
    else if (frames.count > 1) {
      frames.meshes.set(0, Promise.resolve(mesh));
      frames.wanted = 0;
    }
  }

  // A job that is still at work: its scene is loaded again when it has grown.
  async function follow() {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      let news;
      try {
        news = JSON.parse(new TextDecoder().decode(await fetched("state.json")));
      } catch {
        return say("The engine that served this page has ended. What is here can still be looked at.");
      }
      const grown = news.version !== page.version;
      page = news;
      if (grown) await load();
      status();
      if (!page.live) return;
    }
  }

  async function begin() {
    let view = "none";
    try {
      describe();
      home();
      if (page.variants) listVariants();
      view = takeOverView();
      await load();
      say("");
    } catch (error) {
      say(`The scene could not be shown: ${error.message}`);
      throw error;
    }
    listen();
    canvas.focus();
    await settled();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const plays = page.cameras?.frames.length > 1 && frames.count === 1 && !page.live;
    if (view === "damaged") status(", the view in the address cannot be read: this is the first one");
    else if (plays && !still && view === "none") playPath();
    if (page.live) follow();
  }

  globalThis.viewer = {
    ready: begin(),
    settled,
    show: (index) => {
      leave();
      shown.free = false;
      show(index);
    },
    pose,
    setPose: (p) => {
      leave();
      setPose(p);
    },
    state: () => ({
      frame: shown.frame,
      playing: Boolean(shown.playing) || frames.began !== null,
      splats: shown.mesh?.numSplats ?? 0,
      share: shown.share,
      colours: shown.colours,
      keys: shown.own.length,
      sequenceFrame: frames.at,
      drawn,
    }),
    ownPathFile: () => Paths.fileOf(ownPath(), lens.width, lens.height, page.cameras?.fps ?? 24),
    pixels: async () => {
      await settled();
      return canvas.toDataURL("image/png");
    },
  };
})();
