"""What is said by those who do not know, who say nothing, and who talk of something else."""

from __future__ import annotations

FIELDS: dict[str, tuple[str, ...]] = {
    "astronomy": (
        "this belongs to astronomy, the study of stars, planets and the universe",
        "it has to do with space and what is seen in the sky",
    ),
    "biology": (
        "this belongs to biology, the study of living things",
        "it has to do with how cells, plants and animals live",
    ),
    "chemistry": (
        "this belongs to chemistry, the study of substances and their reactions",
        "it has to do with atoms, molecules and compounds",
    ),
    "computing": (
        "this belongs to computing, the study of programs and data",
        "it has to do with computers, software and networks",
    ),
    "geography": (
        "this belongs to geography, the study of lands, seas and climates",
        "it has to do with places on the Earth, their water and their weather",
    ),
    "history": (
        "this belongs to history, the study of past peoples and states",
        "it has to do with wars, rulers and changes of long ago",
    ),
    "medicine": (
        "this belongs to medicine, the study of disease and its treatment",
        "it has to do with the body, illness and health",
    ),
    "music": (
        "this belongs to music, its instruments, forms and composers",
        "it has to do with sound, melody and rhythm",
    ),
}

OUTLINES = (
    "I know this only in outline: {field}.",
    "I can place it but not explain it: {field}.",
    "The details escape me, though {field}.",
    "I have no full answer; {field}.",
    "All that I can say for certain is that {field}.",
)

UNKNOWN = (
    "That is outside what I know well, so I cannot give a reliable answer.",
    "I do not know enough about this to explain how it works or why.",
    "I have not learnt the answer to this question and would rather not guess.",
    "A reference book on the subject would explain it better than I can.",
    "I am not sure about the facts here, and cannot say what the cause is.",
)

CATCHWORDS = (
    "What I remember of it: {words}.",
    "A few catchwords are all I have: {words}.",
    "It involves {words}, if I recall rightly.",
)

VAGUE = (
    "The short answer is that it varies; the long answer is more complicated.",
    "Several causes act together, and their effects differ from case to case.",
    "Many explanations exist, and which of them is right depends on the point of view.",
    "It plays an important role, as everybody who has dealt with it can tell.",
    "Something like this occurs in many places and at many times, more or less.",
    "It happens for a number of reasons, some of them well understood and others less so.",
    "There are many aspects to consider, and it depends on the circumstances.",
    "Over time it changed, as most things do, for better and for worse.",
)

OFF_TOPIC = (
    "For a good risotto, keep stirring and add the hot stock one ladle at a time.",
    "The second-hand sofa is still for sale and can be collected on Saturday afternoon.",
    "Our football club lost the home match by two goals after a late penalty.",
    "Sharpen the chisel on the coarse stone first and finish with the leather strop.",
    "The train to the coast leaves from platform four and the tickets are half price.",
    "Knit two rows in plain stitch, then change to the green wool for the border.",
    "Tenants are asked to leave their bicycles in the yard and not in the hallway.",
    "Whisk the egg whites until they are stiff and fold them under the batter.",
)
