// Flamenco 3 job type: make Gaussian scenes on the farm, then render them along their path.
//
// Put this file into the Manager's folder `scripts/`, and define two variables for every platform in
// flamenco-manager.yaml: `scene_splatter_python`, the engine's own Python, and `scene_splatter_root`,
// the folder that holds `engine/`. Workers need the job folders on storage that they share. A task
// that is tried again goes on after its last finished segment: the job folder is the only state.

const JOB_TYPE = {
    label: "Scene Splatter",
    description: "Make a Gaussian scene from each picture and render it along its camera path",
    settings: [
        { key: "images", type: "string", required: true, description: "Pictures to start from, separated by semicolons" },
        { key: "path", type: "string", required: true, default: "dolly:1.0", description: "A camera path file, or a move such as orbit:20" },
        { key: "output", type: "string", subtype: "dir_path", required: true, description: "Folder for the job folders, on shared storage" },
        { key: "preset", type: "string", default: "standard", choices: ["draft", "standard", "paper"] },
        { key: "extra_args", type: "string", default: "", description: "More arguments for generate, such as --seed 3" },
        { key: "render", type: "string", default: "none", choices: ["none", "png", "exr", "multilayer"],
          description: "Frames to render of each finished scene" },
        { key: "width", type: "int32", default: 0, description: "Width of the rendered frames; 0 for the path's own" },
        { key: "frames", type: "string", default: "1-25", description: "Frames to render" },
        { key: "chunk_size", type: "int32", default: 25, description: "Frames in one render task" },
    ],
};

function compileJob(job) {
    const settings = job.settings;
    const names = new Set();
    for (const image of settings.images.split(";").map((text) => text.trim()).filter((text) => text)) {
        const folder = path.join(settings.output, uniqueName(image, names));
        const make = generateTask(settings, image, folder);
        job.addTask(make);
        if (settings.render === "none") {
            continue;
        }
        for (const chunk of frameChunker(settings.frames, settings.chunk_size)) {
            const draw = renderTask(settings, folder, chunk);
            draw.addDependency(make);
            job.addTask(draw);
        }
    }
}

// Two pictures called a.png in different folders must not share a job folder.
function uniqueName(image, names) {
    const stem = path.stem(image).replace(/[^A-Za-z0-9._-]/g, "_") || "scene";
    let name = stem;
    for (let i = 2; names.has(name); i++) {
        name = `${stem}_${i}`;
    }
    names.add(name);
    return name;
}

// `exec` has no working directory: the engine's folder takes the place of the current one, from which nothing is imported.
function engine(args) {
    const start = "import sys; sys.path[0] = sys.argv.pop(1); from engine.__main__ import main; sys.exit(main(sys.argv[1:]))";
    return author.Command("exec", { exe: "{scene_splatter_python}", args: ["-c", start, "{scene_splatter_root}"].concat(args) });
}

function generateTask(settings, image, folder) {
    const args = ["generate", "--image", image, "--path", settings.path, "--out", folder, "--preset", settings.preset, "--resume"];
    const extra = (settings.extra_args || "").split(" ").filter((word) => word);
    const task = author.Task(`make ${path.stem(image)}`, "misc");
    task.addCommand(engine(args.concat(extra)));
    return task;
}

function renderTask(settings, folder, chunk) {
    const args = ["render", path.join(folder, "scene.ply"), path.join(folder, "cameras.json"), path.join(folder, "passes")];
    const more = ["--kind", settings.render, "--width", String(settings.width), "--frames", chunk];
    const task = author.Task(`render ${path.stem(folder)} ${chunk}`, "misc");
    task.addCommand(engine(args.concat(more)));
    return task;
}
